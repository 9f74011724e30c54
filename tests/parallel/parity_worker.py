"""Worker of test_parity: runs every layout that fits the number of processes and writes what differs, as JSON.

    torchrun --nproc-per-node N tests/parallel/parity_worker.py WORK_FOLDER

WORK_FOLDER holds the folders and references that test_parity made. With one process the results of that process become
the reference of the others.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import finalize_model_grads
from safetensors.torch import load_file
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.model import tree_attention
from nemo_mm_align.model.config import EngineConfig, Levers, LoRAConfig, ParallelConfig
from nemo_mm_align.model.huggingface import llava_config_from_hf, load_huggingface
from nemo_mm_align.model.huggingface_export import export_huggingface
from nemo_mm_align.model.huggingface_gather import rows_of, stream_to_first_rank
from nemo_mm_align.model.huggingface_names import adapter_pieces, weight_pieces
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.model.huggingface_peft import export_peft, load_peft
from nemo_mm_align.model.huggingface_writer import ShardWriter
from nemo_mm_align.model.llava import Llava, build_llava, set_trainable
from nemo_mm_align.objectives.objective import Reading
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.parallel.optimizer import wrap_for_training
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.training.schedule import run_schedule
from tests.float64 import Float64
from tests.parallel.differences import gradient_differences, relative, step_differences
from tests.tiny_llava import IMAGE_TOKEN, LORA, PAD, TOKENS_PER_IMAGE, candidates, load_pixels, micro_batch

MICRO_BATCHES = 4
LAYOUTS = {
    1: {"one": ParallelConfig()},
    2: {
        "TP2": ParallelConfig(tensor_model_parallel_size=2),
        "TP2+SP": ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
        "PP2": ParallelConfig(pipeline_model_parallel_size=2),
        "PP2 uneven": ParallelConfig(pipeline_model_parallel_size=2, num_layers_in_first_pipeline_stage=1),
        "DP2": ParallelConfig(),
    },
    4: {
        "TP2xPP2": ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2),
        "TP2xPP2+SP uneven": ParallelConfig(
            tensor_model_parallel_size=2,
            pipeline_model_parallel_size=2,
            sequence_parallel=True,
            num_layers_in_last_pipeline_stage=1,
        ),
    },
}


LEVERS = Levers.only("lora", "mlp", "rope", "dropout", "losses")


def build(folder: Path, parallel: ParallelConfig, lora: LoRAConfig | None, engine: EngineConfig | None = None) -> Llava:
    """Build and load the model (without adapters all of it trainable) and fill the vocabulary's padding with nonsense."""
    model = build_llava(llava_config_from_hf(folder), parallel, engine, lora, initialize=False)
    load_huggingface(model, folder)
    if lora is None:
        set_trainable(model, language=True, projector=True, vision=True, adapters=False)
    else:
        load_peft(model, folder.parent / f"{folder.name}-peft")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("word_embeddings.weight", "output_layer.weight")):
                columns = parameter.shape[0] * parallel_state.get_tensor_model_parallel_rank()
                parameter[max(0, model.model_config.language.vocab_size - columns) :] = 50.0
    return model


def train_step(model: Llava, batches: list[Batch]) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Return mean loss, every replica's per-token losses (on all ranks) and, on rank 0, gradients by module name."""
    ddp = wrap_for_training(model, OptimConfig())
    model.config.finalize_model_grads_func = finalize_model_grads
    ddp.zero_grad_buffer()
    objective, losses = find_recipe("sft").configured(), []

    def loss_function(reading: Reading, batch: Batch) -> tuple[Tensor, Tensor, dict]:
        losses.append(reading.token_losses_BS.detach().clone())
        output = objective.loss(reading, batch)
        return output.loss_sum, output.count, {}

    run_schedule(ddp, batches, objective.reads, loss_function, forward_only=False)
    shape = (len(batches), *batches[0].labels_BS.shape)
    token_losses = torch.stack(losses) if losses else torch.zeros(shape)
    runtime.broadcast_from_last_stage(token_losses)
    everywhere = [torch.empty_like(token_losses) for _ in range(runtime.data_parallel_size())]
    dist.all_gather(everywhere, token_losses, group=parallel_state.get_data_parallel_group())
    return mean_loss(token_losses, batches), torch.stack(everywhere), gather_gradients(model)


def mean_loss(token_losses: Tensor, batches: list[Batch]) -> float:
    """Loss per answer token over all replicas."""
    counts = sum(batch.num_answer_tokens for batch in batches)
    sums = torch.stack([token_losses.double().sum(), torch.tensor(float(counts), dtype=torch.float64)])
    dist.all_reduce(sums, group=parallel_state.get_data_parallel_group())
    return float(sums[0] / sums[1])


def gather_gradients(model: Llava) -> dict[str, Tensor]:
    """Collect gradients on rank 0 the way an export collects weights."""
    trained = {name: p.main_grad for name, p in model.named_parameters() if p.requires_grad}
    dtype = next(iter(trained.values())).dtype
    pieces = weight_pieces(model.model_config, model.parallel)
    if model.lora is not None:
        pieces = [p for p in pieces if "projector" in p.name]
        pieces += adapter_pieces(model.model_config, model.parallel, model.lora)
    unique = list({piece.name: piece for piece in reversed(pieces)}.values())
    blocks: dict[str, list[Tensor]] = {}
    for index, block in stream_to_first_rank(unique, [dtype] * len(unique), rows_of(trained)):
        blocks.setdefault(unique[index].name, []).append(block.clone())
    return {name: torch.cat(parts) for name, parts in blocks.items()}


def copies_differ(model: Llava) -> float:
    """Largest relative difference between tensor-parallel ranks of gradients that each holds whole."""
    worst = 0.0
    for parameter in model.parameters():
        if parameter.requires_grad and not getattr(parameter, "tensor_model_parallel", False):
            first = parameter.main_grad.clone()
            group = parallel_state.get_tensor_model_parallel_group()
            dist.broadcast(first, dist.get_process_group_ranks(group)[0], group=group)
            worst = max(worst, relative(parameter.main_grad, first))
    result = torch.tensor(worst)
    dist.all_reduce(result, op=dist.ReduceOp.MAX)
    return float(result)


def check_training(folder: Path, parallel: ParallelConfig, lora: LoRAConfig | None, work: Path) -> dict:
    """Differences from the step of one process and from transformers', both in float64, and between copies."""
    model = build(folder, parallel, lora)
    replicas, replica = runtime.data_parallel_size(), runtime.data_parallel_rank()
    loss, token_losses, gradients = train_step(model, [micro_batch(i) for i in range(replica, MICRO_BATCHES, replicas)])
    token_losses = token_losses.transpose(0, 1).reshape(MICRO_BATCHES, *token_losses.shape[2:])
    result: dict = {"copies": copies_differ(model)}
    stem = f"{folder.name}-{'lora' if lora else 'full'}"
    if dist.get_rank() == 0:
        found = {"loss": loss, "token_losses": token_losses, "gradients": gradients}
        for name in ("one", "transformers"):
            result[name] = compare(work / f"{stem}-{name}.pt", found)
    return result


def check_levers(folder: Path, parallel: ParallelConfig, lora: LoRAConfig | None) -> dict[str, float]:
    """What levers, and recomputation under them, change in this layout; of adapters with dropout, ranks' masks included."""
    results = []
    for engine in (EngineConfig(), EngineConfig(levers=LEVERS), EngineConfig(levers=LEVERS, recompute="full")):
        model = build(folder, parallel, lora and replace(lora, dropout=0.3), engine).train()
        tensor_parallel.model_parallel_cuda_manual_seed(3)
        _, token_losses, gradients = train_step(model, [micro_batch(i) for i in range(2)])
        results.append((token_losses, gradients))
    (plain, expected), *others = results
    difference = {"token_losses": max(relative(found, plain) for found, _ in others)}
    if dist.get_rank() == 0:
        difference["gradient"] = max(max(gradient_differences(found, expected).values()) for _, found in others)
    return difference


def compare(path: Path, found: dict) -> dict:
    """Differences from a stored reference, which a run of one process writes if it is its own."""
    if not path.exists():
        assert dist.get_world_size() == 1
        torch.save(found, path)
    return step_differences(found, torch.load(path))


def check_logits(folder: Path, work: Path) -> float:
    """Logits of one process against transformers', at all positions that are not padding."""
    model = build(folder, ParallelConfig(), None)
    expected = torch.load(work / f"{folder.name}-full-transformers.pt")["logits"]
    worst = 0.0
    for number in range(MICRO_BATCHES):
        batch = micro_batch(number)
        with torch.no_grad():
            logits = model.logits(model(batch.input_ids_BS, batch.position_ids_BS, None, batch.images_NCHW))
        inside = batch.segment_ids_BS >= 0
        difference = (logits[inside] - expected[number][inside]).abs().max() / expected[number][inside].abs().max()
        worst = max(worst, float(difference))
    return worst


def check_packed(folder: Path, parallel: ParallelConfig, lora: LoRAConfig | None) -> dict:
    """Packed rows (prefix once, branches side by side) against one row per branch, in the same layout.

    The last sequence sees a part of the image, so that it lies in a row of its own. Without a mask the micro batches' layouts are
    not those of the same layer's next forward pass, which under a pipeline lies between its forward pass and its recomputation.
    """
    tree_attention.CALL_PAIRS = 0  # rows are short
    samples = [replace(candidates(i, 4 - i), views=((),) * (3 - i) + ((Crop(0.01, 0.2, i),),)) for i in range(2)]
    results = {}
    without_mask = EngineConfig(recompute="selective" if lora else "full", levers=Levers.only("attention"))
    for name, shared_prefix, length, engine in (
        ("separate", False, 24, None),
        ("with a mask", True, 40, EngineConfig(levers=Levers.only())),
        ("without", True, 40, without_mask),
    ):
        model = build(folder, parallel, lora, engine)
        rows = 2 if shared_prefix else 4
        make = [
            collate([s], length, PAD, IMAGE_TOKEN, TOKENS_PER_IMAGE, load_pixels, shared_prefix, least_rows=rows)
            for s in samples
        ]
        layouts = [batch.places.trees for batch in make]
        assert [trees is not None and model.attends_by_trees(trees) for trees in layouts] == [name == "without"] * 2
        _, token_losses, gradients = train_step(model, make)
        log_probs = torch.cat([b.sum_per_sequence(row) for b, row in zip(make, token_losses[0], strict=True)])
        results[name] = log_probs, gradients
    separate, expected = results.pop("separate")
    differences = {name: {"log_probs": relative(packed, separate)} for name, (packed, _) in results.items()}
    if dist.get_rank() == 0:
        for name, (_, gradients) in results.items():
            differences[name]["gradient"] = max(gradient_differences(gradients, expected).values())
    return differences


def check_export(folder: Path, parallel: ParallelConfig, target: Path) -> dict:
    """Import and export; the same keys and bytes must come out, merged and apart must open elsewhere (see the test)."""
    model = build(folder, parallel, None)
    export_huggingface(model, target, Origin.of_folder(folder), max_shard_bytes=60_000)
    with_adapters = build(folder, parallel, LORA)
    export_huggingface(with_adapters, target.with_name(target.name + "-merged"))
    export_peft(with_adapters, target.with_name(target.name + "-apart"), str(folder))
    if dist.get_rank() != 0:
        return {}
    before, after = read_all(folder), read_all(target)
    same = before.keys() == after.keys() and all(
        before[key].dtype == after[key].dtype and torch.equal(before[key], after[key]) for key in before
    )
    peft = folder.parent / f"{folder.name}-peft"
    given, returned = (
        load_file(path / "adapter_model.safetensors") for path in (peft, target.with_name(target.name + "-apart"))
    )
    return {
        "same": same,
        "shards": len(list(target.glob("*.safetensors"))),
        "same adapters": given.keys() == returned.keys() and all(torch.equal(given[k], returned[k]) for k in given),
    }


def read_all(folder: Path) -> dict[str, Tensor]:
    return {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}


def check_full_disk(folder: Path, parallel: ParallelConfig, target: Path) -> dict:
    """Every rank must get the error of the one that writes, and nothing may be left behind."""
    model = build(folder, parallel, None)
    name, ShardWriter._name = ShardWriter._name, lambda self, shard: "/dev/full"  # type: ignore[method-assign]
    try:
        export_huggingface(model, target)
        message = "no error"
    except UserError as error:
        message = str(error)
    ShardWriter._name = name  # type: ignore[method-assign]
    messages = [message] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    left = [path.name for path in target.parent.iterdir() if path.name.startswith(target.name)]
    return {"messages": messages, "left": left}


def main(work: Path) -> None:
    torch.set_num_threads(1)
    world = runtime.world_size()
    results: dict = {}
    for name, parallel in LAYOUTS[world].items():
        runtime.initialize(parallel, seed=1)
        result = results[name] = {"layout": runtime.layout(), "parallel": asdict(parallel)}
        with Float64():
            for folder in (work / "untied", work / "tied"):
                for lora in (None, LORA):
                    key = f"{folder.name} {'lora' if lora else 'full'}"
                    result[key] = check_training(folder, parallel, lora, work)
            if name in ("TP2+SP", "TP2xPP2"):
                result["levers"] = {
                    key: check_levers(work / "untied", parallel, lora) for key, lora in (("full", None), ("lora", LORA))
                }
            if name in ("one", "TP2+SP", "PP2"):
                result["packed"] = {
                    key: check_packed(work / "untied", parallel, lora) for key, lora in (("full", None), ("lora", LORA))
                }
            if name == "one":
                result["logits"] = {folder: check_logits(work / folder, work) for folder in ("untied", "tied")}
        result["fp32"] = check_training(work / "untied", parallel, None, work)
        if name not in ("TP2+SP", "TP2xPP2+SP uneven"):
            for folder in (work / "tied", work / "half"):
                result[f"export {folder.name}"] = check_export(
                    folder, parallel, work / f"{name}-{folder.name}".replace(" ", "-")
                )
        if name in ("one", "TP2"):
            result["full disk"] = check_full_disk(work / "tied", parallel, work / f"{name}-full")
        parallel_state.destroy_model_parallel()
    if dist.get_rank() == 0:
        (work / f"results-{world}.json").write_text(json.dumps(results, indent=1))
    runtime.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
