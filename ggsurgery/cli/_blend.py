"""Options of the commands that compute tensors."""

from __future__ import annotations

import click

out_type_option = click.option(
    "--out-type",
    metavar="TYPE",
    help="Type of the computed matrices: f16, bf16, f32, q8_0, q4_k …; default: the source's, or "
    "f32 where that needs an importance matrix.",
)
scale_tensors_option = click.option(
    "--scale-tensors",
    multiple=True,
    metavar="NAME,…=F",
    help="Multiply these tensors of the copies (weight and bias): attn_q,attn_k=0.7.",
)
force_kinds_option = click.option(
    "--force-kinds",
    is_flag=True,
    default=None,
    help="Blend layers of unlike kinds (windowed with full attention …) all the same.",
)
