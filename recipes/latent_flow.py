r"""Generative Latent Flow on images: `accelerate launch recipes/latent_flow.py --dataset_name ...`.

A flow :math:`f` over the latents of an autoencoder gives it a prior, an exact density and samples.
`--training` selects how the two are trained; the losses are in `support/latent_flow/training.py`:

    post-hoc      the autoencoder first, or a frozen one of yours; then the flow, on cached latents
    joint         both at once; the flow's gradient stops at the latents (the paper's GLF)
    regularised   both at once; the flow's gradient reaches the encoder
    vae-flow      the stochastic variant: a VAE whose prior is the flow, trained with it

    --train_data_dir DIR or --dataset_name ID           the images
    --pretrained_model_name_or_path DIR_OR_ID           post-hoc: a trained reference VAE
    --decoder FILE.py:FUNCTION                          post-hoc: your own model

`--output_dir` gets `autoencoder/` (for `latentctl.load("conv-vae", ...)`), `flow/` (for
`LatentFlow.load`), `results.json`, `config.json`, `report.html` and its pictures.

References:
    | Generative Latent Flow (Xiao et al., 2019)
    | https://arxiv.org/abs/1905.10485
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from support.images import load_images
from support.latent_flow.flags import Flags, check
from support.latent_flow.report import evaluate, frechet, pictures, write_report
from support.latent_flow.training import fit_flow, train_autoencoder
from support.models import load_decoder
from support.run import run, write_json

import latentctl


def main(flags: Flags) -> dict[str, Any]:
    check(flags)
    started, run = time.monotonic(), flags.run
    accelerator = run.accelerator("latent_flow")
    folder = Path(run.output_dir)
    splits = load_images(flags.data, run.seed)
    decoder, flow = load_decoder(flags.base), None
    if decoder is None:
        model, flow = train_autoencoder(splits["train"], flags.base, flags.flow, run, accelerator)
        if accelerator.is_main_process:
            model.save_pretrained(folder / "autoencoder")
        decoder = latentctl.wrap(model)
    decoder.to(accelerator.device)
    fingerprint = decoder.fingerprint()
    cache = folder / "cache" / fingerprint[:16]
    latents = latentctl.encode_dataset(decoder, splits["train"], cache, batch_size=256)
    if flow is None:
        flow = fit_flow(latents, flags.flow, run, accelerator)
    flow.to(accelerator.device)
    results: dict[str, Any] = {}
    if accelerator.is_main_process:
        flow.save(folder / "flow")
        write_json(folder / "config.json", flags)
        x, judge = splits["test"].pixels(), flags.evaluation.judge
        results = evaluate(decoder, flow, x) | frechet(decoder, flow, latents, x, judge)
        results["seconds"] = time.monotonic() - started
        shown = pictures(decoder, flow, latents, x)
        report = write_report(folder, dataclasses.asdict(flags), results, shown, judge)
        print(f"{flags.flow.training}, {flow.kind} flow: {folder}")
        for name, value in results.items():
            print(f"  {name.replace('_', ' '):<40} {value:.4g}")
        results["decoder_fingerprint"] = fingerprint  # whose latents the flow is over
        write_json(folder / "results.json", results)
        print(f"Report: {report}")
    accelerator.end_training()
    return results


if __name__ == "__main__":
    run(main, Flags)
