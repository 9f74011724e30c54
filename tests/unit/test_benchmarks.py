"""The benchmark's own instruments: what they report must follow from what happened."""

import mmap
import os
import signal
import subprocess
import sys
import time

import pytest

from nemo_mm_align.benchmarks import machine
from nemo_mm_align.benchmarks.machine import anonymous_bytes, anonymous_growth, peak_resident_bytes
from nemo_mm_align.benchmarks.pairs import PairSizes, batch_of, draw_pairs, positions, random_pixels, samples_of
from nemo_mm_align.benchmarks.random_models import END_ID, IMAGE_ID, words_tokenizer, write_random_model
from nemo_mm_align.benchmarks.timing import Timing, alternate, speedup
from nemo_mm_align.benchmarks.training import check_equal
from nemo_mm_align.core.units import MIB
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig
from tests.waiting import wait_until

CONFIG = LlavaConfig(
    LanguageConfig(num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, vocab_size=50),
    VisionConfig(3, 32, 64, 4, image_size=28, patch_size=14),
    image_token_id=IMAGE_ID,
)


def fresh(function: str) -> list[int]:
    """What a function of this file returns in a process of its own; one that has run other tests has memory that moves."""
    code = f"import gc; from tests.unit import test_benchmarks as t; gc.disable(); print(*t.{function}())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def growth_of_memory_that_is_gone_again() -> tuple[int, int, int]:
    """Growth at the peak, growth that is left, and peak resident memory, in bytes."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # from the kernel: an allocator may hand out pages freed before
    with anonymous_growth() as growth, mmap.mmap(-1, 64 * MIB, flags=private) as block:
        block.write(b"1" * (64 * MIB))
        wait_until(lambda: growth.bytes > 60 * MIB)  # the watching thread has seen it
        block.close()
    return growth.bytes, growth.after - growth.before, peak_resident_bytes()


def test_growth_sees_memory_that_is_gone_again() -> None:
    grown, left, resident = fresh("growth_of_memory_that_is_gone_again")
    assert 60 * MIB < grown < 80 * MIB
    assert left < 20 * MIB
    assert resident > grown


def sleeping_child() -> int:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def shared_pages_that_are_counted() -> tuple[int]:
    """Bytes that 128 MiB, shared with two children of which one ends while it is read, are taken for."""
    before = anonymous_bytes()
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 128 * MIB, flags=private) as block:
        block.write(b"1" * (128 * MIB))
        children = [sleeping_child(), sleeping_child()]
        read = machine._proportional_bytes

        def read_and_end_the_first(process: str) -> int:
            size = read(process)
            if len(children) == 2 and process == str(children[0]):
                end(children.pop(0))
            return size

        machine._proportional_bytes = read_and_end_the_first
        growth = anonymous_bytes() - before
        end(children.pop())
    return (growth,)


def test_shared_pages_count_once_also_where_a_process_ends_meanwhile() -> None:
    (growth,) = fresh("shared_pages_that_are_counted")
    assert 126 * MIB < growth < 145 * MIB  # 149 and more: the second child's share has grown meanwhile


def test_alternation_and_ratio():
    order: list[str] = []
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2]
    assert speedup(Timing((2.0, 9.0, 4.0)), Timing((1.0, 1.0, 2.0))) == 2.0  # per round: 2, 9, 2


def test_unequal_losses_stop_the_run():
    check_equal({"peer": 0.5, "ours": 0.50004})
    with pytest.raises(RuntimeError, match="0.5001"):
        check_equal({"peer": 0.5, "ours": 0.5001})
    with pytest.raises(RuntimeError, match="nan"):
        check_equal({"peer": 0.5, "ours": float("nan")})


def test_random_model_is_loadable_and_of_the_announced_size(tmp_path):
    from transformers import LlavaForConditionalGeneration

    size = write_random_model(tmp_path / "model", CONFIG, seed=0)
    assert size == 4 * CONFIG.num_parameters()
    _, faults = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not faults["missing_keys"] and not faults["unexpected_keys"] and not faults["mismatched_keys"]


def test_peer_and_engine_get_the_same_ids():
    (pair,) = draw_pairs(CONFIG, PairSizes(pairs=1, prompt_words=5, answer_words=(3, 6)), seed=0)
    (sample,) = samples_of([pair], CONFIG)
    record, tokenizer = pair.record(), words_tokenizer(CONFIG.language.vocab_size)
    for sequence, answer in zip(sample.sequences, (record["chosen"], record["rejected"]), strict=True):
        text = record["prompt"].replace("<image>", "<image>" * CONFIG.tokens_per_image)
        assert sequence.ids == tokenizer(f"{text} {answer}")["input_ids"] + [END_ID]
        assert sum(sequence.loss_mask) == len(answer.split()) + 1
    shared = batch_of([sample], CONFIG, random_pixels([pair]), shared_prefix=True)
    plain = batch_of([sample], CONFIG, random_pixels([pair]))
    prefix = CONFIG.tokens_per_image + 5 - 1
    assert positions(plain) - positions(shared) == prefix
