"""Networks on images: classifiers trained here, and pretrained ones, as evaluators and teachers."""
