"""Small tokenizers of the three usual kinds, trained on a few sentences."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: What is in the image? ASSISTANT: A red circle and a blue square, I think.",
    "system user assistant yes no The tallest bar shows five; there is no triangle.",
    "Please answer the question such that your response is in the following attributes in 5-point Likert scale:",
    "Helpfulness:4,Correctness:3,Coherence:2,Complexity:1,Verbosity:0",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<extra_id_1>"]


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, no bos, as GPT-2 and SmolLM2."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL[1:], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _wrap(tokenizer)


def llama_like(bos: str = "<s>") -> PreTrainedTokenizerFast:
    """BPE over text with spaces as "▁", one put in front, and a bos token, as Llama."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no merges across words
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL))
    tokenizer.pre_tokenizer = None
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, SPECIAL.index(bos))])
    return _wrap(tokenizer, bos_token=bos, unk_token="<unk>")


def word_level() -> PreTrainedTokenizerFast:
    """Words and punctuation marks."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return _wrap(tokenizer, unk_token="<unk>")


def _wrap(tokenizer: tokenizers.Tokenizer, **tokens: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **tokens)


ALL = {"byte_level": byte_level, "llama_like": llama_like, "word_level": word_level}
