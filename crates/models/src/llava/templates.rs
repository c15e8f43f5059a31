//! What the published checkpoints' templates do, for copies of them that have none, as the first
//! ones had not.

use vlmd_text::Tokenizer;

use super::config::Config;
use super::processor::Views;

/// LLaVA-1.5 on Vicuna.
const VICUNA: &str = "\
{%- for m in messages -%}\
{%- if m.role != 'system' -%}{{ m.role | upper + ': ' }}{%- endif -%}\
{%- for part in m.content if part.type == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}\
{%- for part in m.content if part.type == 'text' -%}{{ part.text + ' ' }}{%- endfor -%}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}";

/// LLaVA-NeXT on Vicuna, which knows its system message by heart.
const VICUNA_NEXT: &str = "\
{%- if messages[0].role != 'system' -%}\
{{ \"A chat between a curious human and an artificial intelligence assistant. The assistant gives \
helpful, detailed, and polite answers to the human's questions. \" }}\
{%- endif -%}\
{%- for m in messages -%}\
{%- if m.role != 'system' -%}{{ m.role | upper + ': ' }}{%- endif -%}\
{%- for part in m.content if part.type == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}\
{%- for part in m.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}\
{{ '</s>' if m.role == 'assistant' else ' ' }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}";

/// LLaVA-NeXT on Mistral.
const MISTRAL: &str = "\
{%- for m in messages -%}\
{%- if m.role == 'system' -%}{{ '<<SYS>>\\n' }}\
{%- elif m.role == 'user' -%}{{ '[INST] ' }}\
{%- elif m.role == 'assistant' -%}{{ ' ' }}\
{%- else -%}{{ raise_exception('Only user and assistant roles are supported!') }}{%- endif -%}\
{%- for part in m.content if part.type == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}\
{%- for part in m.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}\
{%- if m.role == 'system' -%}{{ '\\n<</SYS>>\\n\\n' }}\
{%- elif m.role == 'user' -%}{{ ' [/INST]' }}\
{%- else -%}{{ '</s> ' }}{%- endif -%}\
{%- endfor -%}";

/// LLaVA-NeXT on Yi-34B (Nous Hermes 2).
const CHATML: &str = "\
{%- if messages[0].role != 'system' -%}\
{{ '<|im_start|>system\\nAnswer the questions.<|im_end|>' }}\
{%- endif -%}\
{%- for m in messages -%}\
{{ '<|im_start|>' + m.role + '\\n' }}\
{%- for part in m.content if part.type == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}\
{%- for part in m.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}\
{{ '<|im_end|>' }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}";

/// The template of the checkpoint's family.
pub(super) fn for_checkpoint(
    config: &Config,
    tokenizer: &Tokenizer,
    views: &Views,
) -> &'static str {
    let mistral = config.text_config.model_type.as_deref() == Some("mistral");
    match views {
        Views::Middle => VICUNA,
        Views::Anyres(_) if mistral => MISTRAL,
        Views::Anyres(_) if tokenizer.token_to_id("<|im_start|>").is_some() => CHATML,
        Views::Anyres(_) => VICUNA_NEXT,
    }
}
