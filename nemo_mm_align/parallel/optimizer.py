"""AdamW with two learning rates, cosine schedule and clipping, on megatron-core's optimizer."""

from __future__ import annotations

import logging

import torch
from megatron.core import optimizer as megatron_optimizer
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer_config import ParamKey
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel.optim_config import OptimConfig

logger = logging.getLogger(__name__)


def wrap_for_training(model: Llava, optim: OptimConfig) -> DistributedDataParallel:
    """Put megatron-core's gradient buffers and data-parallel reduction around a model stage."""
    if optim.use_distributed_optimizer and not torch.cuda.is_available():
        raise UserError(
            "model.optim.use_distributed_optimizer=true: its state cannot be restored on a CPU (megatron-core 0.16 with "
            "torch's AdamW). Set it to false; on GPUs with TransformerEngine it works."
        )
    config = DistributedDataParallelConfig(
        use_distributed_optimizer=optim.use_distributed_optimizer, overlap_grad_reduce=False, grad_reduce_in_fp32=True
    )
    return DistributedDataParallel(config=model.config, ddp_config=config, module=model)


def state_form(precision: str) -> str:
    """Return what an optimizer's state is made for; another implementation, or one for other weights, cannot read it."""
    weights = "fp32" if precision == "fp32" else "bf16 or fp8"
    adam = megatron_optimizer.Adam  # looked up now: `cpu.install` may have changed it
    return f"{adam.__module__.partition('.')[0]} {adam.__name__} for precision={weights}"


def build_optimizer(model: DistributedDataParallel, optim: OptimConfig) -> MegatronOptimizer:
    """AdamW over the trainable parameters; biases and norms are not decayed, the projector has its own rate."""
    bf16 = model.config.params_dtype == torch.bfloat16
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        min_lr=optim.lr * optim.min_lr_ratio,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_eps=optim.eps,
        clip_grad=optim.clip_grad,
        bf16=bf16,
        params_dtype=model.config.params_dtype,
        use_distributed_optimizer=optim.use_distributed_optimizer,
    )
    projector_lr = optim.projector_lr or optim.lr
    overrides = {
        ParamKey(name="*.bias"): {"wd_mult": 0.0},
        ParamKey(name="*norm*.weight"): {"wd_mult": 0.0},
        # lr_mult changes nothing by itself: it makes the group distinct, without which a resume mixes the groups up.
        ParamKey(name="*projector.*"): {
            "max_lr": projector_lr,
            "min_lr": projector_lr * optim.min_lr_ratio,
            "lr_mult": projector_lr / optim.lr,
        },
    }
    if not any(parameter.requires_grad for parameter in model.parameters()):
        logger.warning("this pipeline stage has no trainable parameter")
    cpu = not torch.cuda.is_available()
    optimizer = get_megatron_optimizer(config, [model], config_overrides=overrides, use_gloo_process_groups=cpu)
    if cpu:
        for group in optimizer.param_groups:  # megatron-core takes torch's AdamW here; fused is 4 times faster
            group["fused"] = True
    return optimizer


class Schedule:
    """Learning rates as a function of the step alone: warm-up to the maximum, then the chosen decay.

    The first step trains at 1/warm-up of the full rate and the last one above the minimum: neither is wasted at zero.
    """

    def __init__(self, optimizer: MegatronOptimizer, optim: OptimConfig, total_steps: int) -> None:
        warmup = min(int(optim.warmup_ratio * total_steps), total_steps - 1)
        self._scheduler = OptimizerParamScheduler(
            optimizer,
            init_lr=0.0,
            max_lr=optim.lr,
            min_lr=optim.lr * optim.min_lr_ratio,
            lr_warmup_steps=warmup,
            lr_decay_steps=total_steps + 1,
            lr_decay_style=optim.schedule,
            start_wd=optim.weight_decay,
            end_wd=optim.weight_decay,
            wd_incr_steps=1,
            wd_incr_style="constant",
        )

    def set_step(self, step: int) -> float:
        """Set the rates for a step (from 0) and return the main one."""
        self._scheduler.num_steps = step + 1
        self._scheduler.step(0)
        return self._scheduler.get_lr({})
