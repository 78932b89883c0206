//! The JSON of Hugging Face directories.

use serde_json::{Map, Value, json};

use super::FolderLayout;
use super::plan::divisor;
use crate::config::{Config, Version};
use crate::tensor::Dtype;

/// config.json and generation_config.json.
pub(super) fn config(config: &Config, layout: FolderLayout, dtype: Dtype) -> Vec<(String, Vec<u8>)> {
    let own = match layout {
        FolderLayout::Transformers => transformers(config),
        FolderLayout::Fla => fla(config),
        FolderLayout::Native => native(config),
    };
    let dtype = match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
    };
    let common = json!({
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "intermediate_size": config.ffn,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": false,
        "use_cache": true,
        "torch_dtype": dtype,
    });
    let generation = json!({ "_from_model_config": true, "bos_token_id": 0, "eos_token_id": 0 });
    let mut all = Map::new();
    for part in [own, common] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    let file = |name: &str, value: Value| (name.to_string(), format!("{value:#}\n").into_bytes());
    vec![file("config.json", Value::Object(all)), file("generation_config.json", generation)]
}

/// The shortest decimal that is this f32: 1e-5, not 0.000009999999747378752.
fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, |x| json!(x))
}

/// RWKV-4's class in transformers, and what the code published for v5 and v6 reads.
fn transformers(config: &Config) -> Value {
    if config.version == Version::V4 {
        return json!({
            "architectures": ["RwkvForCausalLM"],
            "model_type": "rwkv",
            "attention_hidden_size": config.width,
            "context_length": 1024,
            "layer_norm_epsilon": number(config.layer_norm_eps),
            // Its class divides and multiplies the weights itself; in the file they are whole.
            "rescale_every": 6,
        });
    }
    let generation = if config.version == Version::V6 { 6 } else { 5 };
    json!({
        "architectures": [format!("Rwkv{generation}ForCausalLM")],
        "model_type": format!("rwkv{generation}"),
        "auto_map": {
            "AutoConfig": format!("configuration_rwkv{generation}.Rwkv{generation}Config"),
            "AutoModelForCausalLM": format!("modeling_rwkv{generation}.Rwkv{generation}ForCausalLM"),
        },
        "attention_hidden_size": config.width,
        "head_size": config.head_size,
        "head_size_divisor": divisor(config.group_norm_eps).map_or(Value::Null, number),
        "layer_norm_epsilon": number(config.layer_norm_eps),
        "rescale_every": 6,
    })
}

fn fla(config: &Config) -> Value {
    let ranks = &config.ranks;
    let common = json!({
        "attn_mode": "chunk",
        "hidden_act": "sqrelu",
        "hidden_ratio": config.ffn as f64 / config.width as f64,
        "norm_first": true,
        "norm_bias": true,
        "norm_eps": number(config.layer_norm_eps),
        "num_heads": config.heads,
        "fuse_norm": false,
    });
    let own = if config.version == Version::V7 {
        json!({
            "architectures": ["RWKV7ForCausalLM"],
            "model_type": "rwkv7",
            "head_dim": config.head_size,
            "value_dim": vec![config.width; config.layers],
            "decay_low_rank_dim": ranks.decay,
            "a_low_rank_dim": ranks.a,
            // A model of one block has no value residual, but the class wants a rank.
            "v_low_rank_dim": if ranks.v == 0 { ranks.a } else { ranks.v },
            "gate_low_rank_dim": ranks.g,
        })
    } else {
        json!({
            "architectures": ["RWKV6ForCausalLM"],
            "model_type": "rwkv6",
            "expand_k": 1.0,
            "expand_v": 1.0,
            "proj_low_rank_dim": ranks.mix,
            // The rank of the decay, whatever its name says.
            "gate_low_rank_dim": ranks.decay,
        })
    };
    let mut all = Map::new();
    for part in [common, own] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

fn native(config: &Config) -> Value {
    let ranks = &config.ranks;
    let generation = config.architecture().trim_start_matches("rwkv").chars().take(1).collect::<String>();
    let mut own = json!({
        "architectures": [format!("Rwkv{generation}ForCausalLM")],
        "model_type": format!("rwkv{generation}"),
        "layer_norm_epsilon": number(config.layer_norm_eps),
        "head_size": config.head_size,
    });
    if config.version != Version::V4 {
        own["head_size_divisor"] = divisor(config.group_norm_eps).map_or(Value::Null, number);
    }
    if config.version == Version::V7 {
        own["lora_rank_decay"] = json!(ranks.decay);
        own["lora_rank_iclr"] = json!(ranks.a);
        own["lora_rank_value_residual_mix"] = json!(ranks.v);
        own["lora_rank_gate"] = json!(ranks.g);
    }
    own
}
