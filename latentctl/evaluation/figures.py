"""The figures of the doctor: the unit of each, and what it is in a sentence."""

from __future__ import annotations

__all__ = ["figure"]

FIGURES = {
    "error": ("", "Root mean square error of reconstructions, in the units of the samples"),
    "explained": ("", "Share of the samples' variance that reconstructions keep; 1 is all of it"),
    "wrong": ("", "Share of the entries that change in the reconstruction; 0 is none"),
    "mean": (" latent units", "Root mean square of the latents' means; 0 under N(0, I)"),
    "std_lowest": (" latent units", "Least standard deviation of a dimension; 1 under N(0, I)"),
    "std_median": (" latent units", "Median standard deviation of a dimension; 1 under N(0, I)"),
    "std_highest": (" latent units", "Largest standard deviation of a dimension; 1 under N(0, I)"),
    "kurtosis": ("", "Excess kurtosis of the prior's base noise; 0 for a normal distribution"),
    "correlation": ("", "Correlation between dimensions of the base noise; 0 for none"),
    "divergence": (" nats a dimension", "What a Gaussian with the data's moments would gain"),
    "sample_precision": ("", "Share of the prior's samples that are near reconstructions of data"),
    "sample_recall": ("", "Share of reconstructions of data that are near the prior's samples"),
    "data_precision": ("", "The same precision of other data in place of samples: the goal"),
    "data_recall": ("", "The same recall of other data in place of samples: the goal"),
    "decode_per_second": (" samples/s", "Latents decoded in a second"),
    "encode_per_second": (" samples/s", "Samples encoded in a second"),
    "decode_and_backward_per_second": (" samples/s", "Decodings with a gradient in a second"),
    "backward_mib_per_sample": (" MiB a sample", "Memory that the gradient keeps"),
    "weights_mib": (" MiB", "Memory of the weights and buffers"),
    "peak_mib": (" MiB", "Most memory of the GPU in these measurements"),
}


def figure(key: str, value: float) -> str:
    """A figure with its unit and a sentence.

    Example:
        >>> figure("weights_mib", 12.5)
        'weights_mib: 12.5 MiB. Memory of the weights and buffers.'
    """
    unit, sentence = FIGURES[key]
    return f"{key}: {value:.4g}{unit}. {sentence}."
