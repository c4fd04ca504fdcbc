"""Networks on images: classifiers that are trained here, and pretrained ones, as judges and teachers."""
