"""The attribute schema, for code around the project; inside it, it is `nemo_mm_align.schema.attributes`."""

from nemo_mm_align.schema.attributes import AttributeSchema

__all__ = ["AttributeSchema"]
