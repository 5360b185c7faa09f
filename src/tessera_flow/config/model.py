"""The keys of the section `model`: the encoder and the settings of inference."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .types import HeadCounts, PathText, Section, key


class MinObservations(Section):
    """Minimum number of valid observations; pixels with fewer get no embedding."""

    s2: int = key(1, "Minimum number of valid Sentinel-2 observations.", ge=0)
    s1: int = key(
        0, "Minimum number of valid Sentinel-1 observations, both orbit directions together.", ge=0
    )


class Model(Section):
    """The encoder and the settings of inference."""

    weights: PathText | None = key(
        None,
        "Path of a checkpoint file, or a published name. Published names: `v2-nano`, `v2-small`, "
        "`v2-medium`, `v2-large`, `v2-teacher`; the file is downloaded once from Hugging Face. "
        "Checkpoints of v1.0 and v1.1 must be local files. The model family is detected from the "
        "content. Required unless `source` is `geotessera`.",
        min_length=1,
    )
    sha256: str | None = key(
        None,
        "SHA-256 of the weights, in hexadecimal; another file is refused. Default for a published "
        "name: that of its first download, which `published_weights.json` in `paths.work` records. "
        "Set it to use a file that has replaced that one.",
        pattern="^[0-9a-f]{64}$",
    )
    cache: PathText | None = key(
        None,
        "Folder for downloaded weights; can be shared between runs. Default: the Hugging Face "
        "cache (`HF_HOME`, or `~/.cache/huggingface`).",
        min_length=1,
    )
    statistics: Literal["mpc", "aws"] | None = key(
        None,
        "Normalisation statistics, for v1.1 only. Required for v1.1, which has one checkpoint for "
        "scenes from Planetary Computer (`mpc`) and one for scenes from AWS (`aws`), each with its "
        "own statistics. Omit for other families.",
    )
    allow_statistics_mismatch: bool = key(
        False,
        "Allow statistics that do not match the provider of the scenes. The embeddings are then "
        "outside the distribution that the model was trained on.",
    )
    heads: HeadCounts | None = key(
        None,
        "Number of attention heads; overrides the checkpoint. One number, or two for Sentinel-2 "
        "and Sentinel-1, such as `[4, 2]`. Default: the number in the checkpoint; if it has none, "
        "8 for v1.0 float and 4 otherwise, with a message in the log.",
    )
    dim: Literal[16, 32, 64, 128] | None = key(
        None,
        "Number of leading dimensions to keep. Default: all dimensions, 128 (v2 teacher: 1024). "
        "The v2 students can be truncated to 16, 32 or 64; this happens before quantisation.",
    )
    dtype: Literal["int8", "float32"] = key(
        "int8",
        "Data type of the embeddings. `int8`: codes with one float32 scale per pixel. `float32`: "
        "values without quantisation.",
    )
    seed: int = key(
        0,
        "Seed of the random sampling of observations, for v1.0 only. The samples of a pixel depend "
        "only on the seed and on its row and column in the grid of the region.",
        ge=0,
    )
    repeat_times: int = key(
        1, "Number of random samples to average per pixel, for v1.0 only.", ge=1
    )
    min_observations: MinObservations = Field(
        default=MinObservations(), description=MinObservations.__doc__
    )
    device: Literal["auto", "cpu", "cuda", "xpu"] = key(
        "auto",
        "Device that runs the encoder. `cuda`: an NVIDIA GPU, or an AMD GPU with PyTorch for ROCm. "
        "`xpu`: an Intel GPU. `auto`: a GPU if one is available, else the CPU.",
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = key(
        "auto",
        "Precision of the matrix multiplications. Sums are always float32. `bf16`: faster on "
        "devices that support it; codes may differ by up to 4 (docs/equivalence.md). `fp16`: for "
        "NVIDIA GPUs without bf16 since the V100. `auto`: float32 on a CPU, bf16 or else fp16 on a "
        "GPU that supports it; a block whose embeddings differ more is computed in float32, and "
        "products with several precisions state it. Only `auto` is replaced: a job that cannot "
        "keep the limits in another precision fails.",
    )
    compile: bool = key(
        False,
        "On GPUs for CUDA, let PyTorch's compiler fuse operations of the encoders. Needs Triton "
        "and a C compiler. Every job takes some seconds longer to start, and the first ones up to "
        "a minute; compiled code is kept in `{paths.work}/compiled`. Embeddings keep the limits of "
        "docs/equivalence.md. What cannot be compiled runs as usual, and the block records why. "
        "Has not been run on a GPU yet.",
    )
    batch_size: int = key(
        4096,
        "Size of a forward pass on a GPU, in pixels of 64 steps. Passes of shorter sequences have "
        "more pixels, of longer ones fewer. It is halved if GPU memory is too small. A CPU uses "
        "smaller passes that fit its cache.",
        "px",
        ge=1,
    )
