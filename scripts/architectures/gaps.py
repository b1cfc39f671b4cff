"""What is known not to be right yet, and why. Everything else in the table must be right or a clear error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """A cell, or with `"*"` all cells of a row, that may be wrong."""

    configuration: str
    primitive: str
    reason: str


GAPS: list[Gap] = [
    Gap(
        "opt-norm-after",
        "*",
        "TransformerLens cannot run it: its bridge wants a last norm (OPT-350M has none)",
    ),
    Gap("falcon-40b", "*", "TransformerLens cannot run it: its bridge splits grouped queries wrongly"),
]


def reason(configuration: str, primitive: str) -> str | None:
    """Why this cell may be wrong, or `None`: it may not."""
    return next((g.reason for g in GAPS if g.configuration == configuration and g.primitive in ("*", primitive)), None)


#: Architectures that TransformerLens names and the table lacks, and why.
LEFT_OUT: dict[str, str] = {
    "its code is not in transformers: it is fetched from the Hub": """
        BaiChuanForCausalLM BaichuanForCausalLM BD3LM DreamModel GiddForDiffusionLM HyenaDNAForCausalLM
        LLaDA2MoeModelLM ExaoneForCausalLM GPT2LMHeadCustomModel InternLM2ForCausalLM LLaDAModelLM
        NeelSoluOldForCausalLM OpenELMForCausalLM OuroForCausalLM PhiMoEForCausalLM QwenForCausalLM
        RavenForCausalLM RWKV7ForCausalLM NanoGPTForCausalLM MinGPTForCausalLM
    """,
    "another name of a family that is in the table": """
        JetMoEForCausalLM Gemma1ForCausalLM MPTForCausalLM NeoForCausalLM NeoXForCausalLM T5WithLMHeadModel
        BloomModel TransformerLensNative TransformerLensPretrain
    """,
    "images or sound only: there is no text to ask about": """
        ASTForAudioClassification HubertForCTC HubertModel Wav2Vec2ForCTC Wav2Vec2ForPreTraining Wav2Vec2Model
        ViTModel ViTForImageClassification DeiTModel DeiTForImageClassification
    """,
    "images or sound beside text; its language model is a family of its own": """
        AudioFlamingo3ForConditionalGeneration Emu3ForConditionalGeneration Florence2ForConditionalGeneration
        Gemma3ForConditionalGeneration Gemma3nForConditionalGeneration Gemma4ForConditionalGeneration
        Gemma4UnifiedForConditionalGeneration Glm4vForConditionalGeneration GlmAsrForConditionalGeneration
        Idefics3ForConditionalGeneration Llama4ForConditionalGeneration LlavaForConditionalGeneration
        LlavaNextForConditionalGeneration LlavaOnevisionForConditionalGeneration
        Mistral3ForConditionalGeneration MuseGlimmerForConditionalGeneration
        MusicFlamingoForConditionalGeneration Qwen2AudioForConditionalGeneration
        Qwen2_5_VLForConditionalGeneration Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration
        Qwen3_5ForConditionalGeneration Qwen3_5MoeForConditionalGeneration T5GemmaForConditionalGeneration
        T5Gemma2ForConditionalGeneration
    """,
}
