"""Deformable attention with options of `Offsets` and of the module side by side, as tests parametrise them."""

from dataclasses import fields

from minidat.attention import DeformableAttention, Offsets, PooledAttention

OF_OFFSETS = {field.name for field in fields(Offsets)}


def deformable(dim, heads, **options):
    """Also released v2 without offsets, whose keys are means."""
    offsets = Offsets(**{name: options.pop(name) for name in OF_OFFSETS & options.keys()})
    pooled = options.get("convention") == "v2" and not offsets.learned
    return (PooledAttention if pooled else DeformableAttention)(dim, heads, offsets, **options)
