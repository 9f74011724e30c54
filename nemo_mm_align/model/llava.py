"""LLaVA on megatron-core: CLIP tower, projector and decoder as one pipeline-parallel module.

The first stage owns tower, projector and embedding; later stages are plain decoder stages. Input ids carry one image
token per image embedding, so that ids, labels and positions line up everywhere and only the first stage sees images.

Shapes: B rows, S sequence, H hidden, N distinct images, K image occurrences, T tokens per image, C channels,
V vocabulary columns of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.vision.clip_vit_model import CLIPViTModel
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from nemo_mm_align.model import layer_specs, packed_attention, tree_attention
from nemo_mm_align.model.attention import RowsOfTrees
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.head_config import HeadConfig
from nemo_mm_align.model.heads import RegressionHead
from nemo_mm_align.model.language import LanguageModel
from nemo_mm_align.model.lora import initialize_adapters
from nemo_mm_align.model.transformer_configs import language_config, projector_config, vision_config
from nemo_mm_align.model.trees import Trees


class Llava(MegatronModule):
    """One pipeline stage of a LLaVA; all of it where there is one stage.

    Args:
        config: sizes.
        parallel: layout; process groups must be up (`parallel.runtime.initialize`).
        engine: precision, kernels, recomputation.
        lora: adapters on the language model, or ``None``.
        head: what turns hidden states into numbers, or ``None``.
        pre_process, post_process: whether this is the first and the last stage.
        initialize: draw random weights; false where they are loaded next.
    """

    def __init__(
        self,
        config: LlavaConfig,
        parallel: ParallelConfig,
        engine: EngineConfig,
        lora: LoRAConfig | None,
        pre_process: bool,
        post_process: bool,
        initialize: bool = True,
        head: HeadConfig | None = None,
    ) -> None:
        language = language_config(config, parallel, engine, initialize)
        super().__init__(config=language)
        self.model_config, self.parallel, self.engine, self.lora = config, parallel, engine, lora
        self.head_config = head
        self.pre_process, self.post_process = pre_process, post_process
        self.model_type = ModelType.encoder_or_decoder
        kernel = layer_specs.kernels(engine)
        self.transformer_impl = kernel.name
        if pre_process:
            self.vision_tower = _vision_tower(config, parallel, engine, kernel, initialize)
            self.projector = MultimodalProjector(
                config=projector_config(config, parallel, engine, initialize),
                submodules=layer_specs.projector(kernel),
                projector_type="mlp",
                input_size=config.vision.hidden_size,
            )
        stage = parallel_state.get_pipeline_model_parallel_rank()
        layer = layer_specs.decoder_layer(kernel, language, lora)
        self.language_model = LanguageModel(
            config=language,
            transformer_layer_spec=layer_specs.block(layer, config.layers_per_stage(parallel)[stage], kernel),
            vocab_size=config.padded_vocab_size(parallel.tensor_model_parallel_size),
            real_vocab_size=config.language.vocab_size,
            max_sequence_length=config.language.max_position_embeddings,
            pre_process=pre_process,
            post_process=post_process,
            parallel_output=True,
            share_embeddings_and_output_weights=config.language.tie_word_embeddings,
            position_embedding_type="mrope",
            rotary_base=config.language.rotary_base,
            scatter_embedding_sequence_parallel=False,
        )
        self.head = RegressionHead(language, head) if head is not None and post_process else None
        _mark_split_weights(self)

    @property
    def share_embeddings_and_output_weights(self) -> bool:
        """Whether first and last stage hold one matrix whose gradients must be summed."""
        if not self.model_config.language.tie_word_embeddings:
            return False
        weight = self.language_model.shared_embedding_or_output_weight()
        return weight is None or weight.requires_grad

    def shared_embedding_or_output_weight(self) -> Tensor | None:
        """The tied matrix, as megatron-core's gradient reduction asks for it."""
        weight: Tensor | None = self.language_model.shared_embedding_or_output_weight()
        return weight

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Take the previous stage's hidden states, [S, B, H]; called by the pipeline schedule."""
        self.language_model.set_input_tensor(input_tensor)

    def forward(
        self,
        input_ids_BS: Tensor,
        position_ids_BS: Tensor,
        attention_mask: Tensor | None,
        images_NCHW: Tensor | None = None,
        image_index_K: Tensor | None = None,
        image_embeddings_KTH: Tensor | None = None,
        trees: Trees | None = None,
    ) -> Tensor:
        """Run this stage.

        Args:
            input_ids_BS: token ids, image token once per image embedding.
            position_ids_BS: rotary position of every token.
            attention_mask: boolean [B, 1, S, S] or [B, 1, S, keys], True = may attend; ``None`` = plain causal.
            images_NCHW: normalised pixels; only the first stage reads them.
            image_index_K: for each image occurrence, row by row, its place in `images_NCHW`; ``None`` = in order. An
                image that occurs in several rows is encoded once.
            image_embeddings_KTH: what `encode_images` has returned for each occurrence, row by row, in place of pixels.
            trees: how rows are divided, in place of a mask; see `attends_by_trees`.

        Returns:
            Hidden states [S, B, H], this rank's share of S with sequence parallelism; on the last stage behind the final norm
            and whole, as `token_losses`, `logits` and `head` take them.

        Raises:
            ValueError: image tokens and image embeddings differ in number.
        """
        hidden_SBH = None
        if self.pre_process:
            if images_NCHW is not None and len(images_NCHW) > 0:
                embeddings_NTH = self.encode_images(images_NCHW)
                image_embeddings_KTH = embeddings_NTH if image_index_K is None else embeddings_NTH[image_index_K]
            hidden_SBH = self._embed(input_ids_BS, image_embeddings_KTH)
        layout = None if trees is None else RowsOfTrees.on(input_ids_BS.device, trees)
        needs_more = torch.is_grad_enabled() or self.training or self.engine.fp8
        if self.language_model.is_plain and not needs_more:
            return self.language_model.run_plainly(position_ids_BS, attention_mask, hidden_SBH, layout)
        with self._fp8_only_where_calibrated():
            output: Tensor = self.language_model(
                input_ids=input_ids_BS,
                position_ids=position_ids_BS.unsqueeze(0).expand(3, -1, -1),
                attention_mask=attention_mask,
                decoder_input=hidden_SBH,
                packed_seq_params=layout,
            )
        return output

    def attends_by_trees(self, trees: Trees) -> bool:
        """Whether rows like these are to be computed by their trees rather than with a mask: see `Levers.attention`."""
        if "attention" not in self.config.levers:
            return False
        if torch.cuda.is_available():
            return packed_attention.fits(self.config.params_dtype, self.config.kv_channels)
        return tree_attention.pays(trees)

    def token_losses(self, hidden_SBH: Tensor, labels_BS: Tensor, label_places_P: Tensor | None = None) -> Tensor:
        """Return per-token losses [B, S] of the last stage's hidden states; see `LanguageModel.token_losses`."""
        return self.language_model.token_losses(hidden_SBH, labels_BS, label_places_P)

    def token_statistics(
        self, hidden_SBH: Tensor, labels_BS: Tensor, label_places_P: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same losses, entropies, and where labels are the likeliest; see `LanguageModel.token_statistics`."""
        return self.language_model.token_statistics(hidden_SBH, labels_BS, label_places_P)

    def logits(self, hidden_SBH: Tensor) -> Tensor:
        """Return this rank's part of the logits [B, S, V] of the last stage's hidden states, or of some positions of them."""
        return self.language_model.logits(hidden_SBH)

    @contextmanager
    def _fp8_only_where_calibrated(self) -> Iterator[None]:
        """Compute in bf16 without gradients under delayed scaling.

        Its scales come from passes with gradients alone. Reference log-probs are taken before the first of these, when all
        scales are still 1 and most weights lie below FP8's smallest normal number.
        """
        if self.engine.precision != "fp8_delayed" or torch.is_grad_enabled():
            yield
            return
        kept, self.config.fp8 = self.config.fp8, None
        try:
            yield
        finally:
            self.config.fp8 = kept

    def encode_images(self, images_NCHW: Tensor) -> Tensor:
        """Return image embeddings [N, T, H]: tower features without the class token, projected."""
        tower = self.vision_tower
        frozen = not any(parameter.requires_grad for parameter in tower.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features_NTC = tower(images_NCHW.to(tower.conv1.weight.dtype))[:, tower.class_token_len :]
        embeddings: Tensor = self.projector(features_NTC.contiguous())
        return embeddings

    def _embed(self, input_ids_BS: Tensor, image_embeddings_KTH: Tensor | None) -> Tensor:
        is_image_BS = input_ids_BS == self.model_config.image_token_id
        text_ids_BS = input_ids_BS.masked_fill(is_image_BS, 0)
        hidden_SBH = self.language_model.embedding(input_ids=text_ids_BS, position_ids=None)
        if image_embeddings_KTH is not None:
            hidden_SBH = self._merge(hidden_SBH, is_image_BS, image_embeddings_KTH)
        else:
            self._check_counts(is_image_BS, 0)
            hidden_SBH = hidden_SBH + self._idle_projector(hidden_SBH)
        if torch.is_grad_enabled() and not hidden_SBH.requires_grad:
            hidden_SBH.requires_grad_()  # a recomputed first layer of frozen inputs would otherwise lose its gradient
        if self.parallel.sequence_parallel:
            hidden_SBH = tensor_parallel.scatter_to_sequence_parallel_region(hidden_SBH)
        return hidden_SBH

    def _merge(self, hidden_SBH: Tensor, is_image_BS: Tensor, embeddings_KTH: Tensor) -> Tensor:
        """Put image embeddings where image tokens stand, row by row."""
        rows_IH = embeddings_KTH.flatten(0, 1).to(hidden_SBH.dtype)
        self._check_counts(is_image_BS, len(rows_IH))
        length, batch, hidden = hidden_SBH.shape
        place_I = torch.nonzero_static(is_image_BS.flatten(), size=len(rows_IH)).squeeze(1)
        merged = hidden_SBH.transpose(0, 1).flatten(0, 1).index_put((place_I,), rows_IH)
        return merged.view(batch, length, hidden).transpose(0, 1).contiguous()

    def _check_counts(self, is_image_BS: Tensor, embeddings: int) -> None:
        """Refuse images that do not fit their tokens. A GPU finds it out when it gets there; nobody waits for it."""
        message = f"image tokens in the batch do not fit the {embeddings} image embeddings"
        try:
            torch._assert_async(is_image_BS.sum() == embeddings, message)
        except RuntimeError:  # a CPU is asked on the spot
            raise ValueError(message) from None

    def _idle_projector(self, hidden_SBH: Tensor) -> Tensor | float:
        """Zero that depends on the projector: a text-only micro batch must still give it a (zero) gradient."""
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in self.projector.parameters())):
            return 0.0
        blank = hidden_SBH.new_zeros(1, 1, self.model_config.vision.hidden_size)
        return 0.0 * self.projector(blank).sum()

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None) -> dict:
        """Every tensor of this stage with its place in the whole model, for torch_dist checkpoints."""
        if metadata is None:
            metadata = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
        sharded: dict = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        return sharded


class _ClipTower(CLIPViTModel):
    """megatron-core's tower with its position ids kept where the weights are."""

    position_ids: Tensor

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.position_ids = self.position_ids.to(x.device)
        output: Tensor = super().forward(x, attention_mask)
        return output


def _vision_tower(
    config: LlavaConfig, parallel: ParallelConfig, engine: EngineConfig, kernel: layer_specs.Kernels, initialize: bool
) -> CLIPViTModel:
    vision = config.vision
    return _ClipTower(
        vision_config(config, parallel, engine, initialize),
        layer_specs.block(layer_specs.vision_layer(kernel), vision.computed_layers, kernel),
        ln_pre_impl=kernel.norm,
        ln_post_impl=kernel.norm,
        patch_dim=vision.patch_size,
        img_h=vision.image_size,
        img_w=vision.image_size,
    )


def _mark_split_weights(model: nn.Module) -> None:
    """Mark weights that are spread over TP: the gradient norm asks, megatron-core says so only while drawing them."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is None or hasattr(weight, "tensor_model_parallel"):
            continue
        if isinstance(module, ColumnParallelLinear | VocabParallelEmbedding):
            set_tensor_model_parallel_attributes(weight, True, 0, 1)
        elif isinstance(module, RowParallelLinear):
            set_tensor_model_parallel_attributes(weight, True, 1, 1)


def set_trainable(
    model: Llava, language: bool, projector: bool, vision: bool, adapters: bool, output_layer: bool = True
) -> None:
    """Freeze and unfreeze by part; adapters count apart from the language model's own weights, a head is always trained.

    Args:
        output_layer: whether the output layer is trained with the language model; not where nobody reads its logits.
    """
    for name, parameter in model.named_parameters():
        if name.startswith("head."):
            continue
        if ".adapters." in name:
            parameter.requires_grad_(adapters)
        elif name.startswith("vision_tower."):
            parameter.requires_grad_(vision)
        elif name.startswith("projector."):
            parameter.requires_grad_(projector)
        elif name.startswith("language_model.output_layer."):
            parameter.requires_grad_(language and output_layer)
        else:
            parameter.requires_grad_(language)


def build_llava(
    config: LlavaConfig,
    parallel: ParallelConfig | None = None,
    engine: EngineConfig | None = None,
    lora: LoRAConfig | None = None,
    initialize: bool = True,
    head: HeadConfig | None = None,
) -> Llava:
    """Check the configuration, build this rank's stage and move it to its device.

    With `lora`, adapters and projector are trainable, the rest is frozen; without, language model and projector are.
    `initialize=False` leaves all but adapters, head and norms undefined, for weights that are loaded next.

    Raises:
        UserError: sizes and layout do not fit, or the asked kernels or precision are not available here.
    """
    parallel, engine = parallel or ParallelConfig(), engine or EngineConfig()
    config.check(parallel)
    packed_attention.check(config, engine)
    model = Llava(
        config,
        parallel,
        engine,
        lora,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        initialize=initialize,
        head=head,
    )
    model.to(device=torch.cuda.current_device(), dtype=model.config.params_dtype)
    if model.head is not None:
        model.head.initialize(engine.seed)
    if lora is not None:
        initialize_adapters(model, engine.seed)
    set_trainable(model, language=lora is None, projector=True, vision=False, adapters=True)
    return model


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Parameters held by this rank."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
