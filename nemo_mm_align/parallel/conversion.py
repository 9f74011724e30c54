"""Hugging Face folder <-> checkpoint of ours, under any layout; adapters merged or apart."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.packages import installed_versions
from nemo_mm_align.model.config import EngineConfig, ParallelConfig, VisionConfig
from nemo_mm_align.model.huggingface_compose import compose_llava
from nemo_mm_align.model.huggingface_export import Companions
from nemo_mm_align.model.huggingface_names import HEAD
from nemo_mm_align.model.huggingface_origin import Origin, travelling_files
from nemo_mm_align.model.serving_names import name_warning
from nemo_mm_align.model.transformer_configs import language_config
from nemo_mm_align.parallel import checkpoint, runtime
from nemo_mm_align.parallel.conversion_checks import check_conversion, layout_of, place_of
from nemo_mm_align.parallel.conversion_export import Export, export_as_asked
from nemo_mm_align.parallel.conversion_settings import ConvertSettings
from nemo_mm_align.parallel.model_card import Card
from nemo_mm_align.parallel.source import ModelSource, build_from, open_source

logger = logging.getLogger(__name__)


def convert(config: ConvertSettings) -> Path:
    """Run the conversion that conf/convert.yaml describes; all ranks call it. Returns the folder that was made."""
    check_conversion(config)
    directions = {"import": import_folder, "export": export_folder, "compose": compose_folder}
    own = owned_output(place_of(config)) if runtime.rank() == 0 else nullcontext()
    try:
        with own:
            made = directions[config.direction](config)
        warning = name_warning(made) if config.direction != "import" and runtime.rank() == 0 else None
        if warning is not None:
            logger.warning("%s", warning)
        return made
    finally:
        runtime.shutdown()


def import_folder(config: ConvertSettings) -> Path:
    """Hugging Face folder -> checkpoint ``out/step_00000000``, from which training goes on at any layout."""
    source, parallel = open_source(config.source), layout_of(config)
    template = source.template(config.chosen_template)
    schema = source.schema(config.chosen_schema)
    encoder = source.encoder(template, schema)  # says now whether tokenizer and template fit
    engine = EngineConfig(precision=_precision(config, source.folder))
    runtime.initialize(parallel, seed=engine.seed)
    model = build_from(source, parallel, engine, head=source.head)
    metadata = checkpoint.CheckpointMetadata(
        step=0,
        model=source.config.to_dict(),
        lora=None,
        head=None if source.head is None else source.head.to_dict(),
        template=template.model_dump(mode="json"),
        attribute_schema=None if schema is None else schema.model_dump(mode="json"),
        image_processor=source.image_processor().model_dump(mode="json"),
        recipe={
            "name": "import",
            "attributed": source.asking is not None,
            "tokens": {"stop": encoder.stop_id, "pad": encoder.pad_id},
        },
        base_path=str(source.folder.resolve()),
        base_fingerprint=source.fingerprint(),
        precision=engine.precision,
        layout=runtime.layout(),
        versions=installed_versions(("torch", "megatron-core")),
    )
    return checkpoint.save(config.out, model, metadata, tokenizer_source=source.folder)


def export_folder(config: ConvertSettings) -> Path:
    """Checkpoint (or Hugging Face folder) -> folder ``out``; `Export` says of which kind."""
    source, parallel, out = open_source(config.source), layout_of(config), config.out
    template, schema = source.template(config.chosen_template), source.schema(config.chosen_schema)
    encoder = source.encoder(template, schema)
    origin = _origin(source)
    engine = EngineConfig(precision=source.metadata.precision if source.metadata else _precision(config, source.folder))
    runtime.initialize(parallel, seed=engine.seed)
    model = build_from(source, parallel, engine, base=config.base, head=source.head)
    if source.head is None:
        text = template.jinja(schema, encoder.bos_text)
    else:  # attributes are what it tells, not what it is asked for
        text = template.jinja(None, encoder.bos_text, ends_with_answer=True)
    told = schema if source.head is not None else source.asking
    generation = {"eos_token_id": encoder.stop_id, "pad_token_id": encoder.pad_id}
    companions = Companions(text, source.image_processor().to_hf(), generation, config.generation, schema=told)
    export_as_asked(Export(model, source, config, origin, companions, Card(source, config, template, source.asking)))
    return out


def compose_folder(config: ConvertSettings) -> Path:
    """Llama-type language model (folder or GGUF file) + CLIP tower (folder, or the preset's sizes) -> LLaVA folder."""
    template = config.chosen_template
    assert template is not None
    assert config.vision or config.model
    vision: str | VisionConfig = config.vision or config.model.vision  # type: ignore[union-attr]
    compose_llava(config.source, vision, config.out, template, config.seed)
    return config.out


def _precision(config: ConvertSettings, folder: Path) -> str:
    """``auto``: bf16 where all weights are bf16, else fp32, which keeps every bit of fp16 as well."""
    if config.precision != "auto":
        return config.precision
    dtypes = {dtype for name, (_, dtype) in Origin.of_folder(folder).computed.items() if name != HEAD}
    return "bf16" if dtypes == {"BF16"} else "fp32"


def _origin(source: ModelSource) -> Origin:
    """The form that the model's weights first had; of a model that came from no folder, transformers' usual one."""
    if source.metadata is None or Origin.is_in(source.tokenizer_folder):
        return Origin.of_folder(source.tokenizer_folder)
    dtype = language_config(source.config, ParallelConfig(), EngineConfig(source.metadata.precision)).params_dtype
    return Origin.of_config(source.config, dtype, travelling_files(source.tokenizer_folder))
