//! Plans of models that there are, and of devices that there are not.

use candle_core::DType;
use vlmd_backend::KvDtype;
use vlmd_kernels::Place;
use vlmd_models::{Need, catalog, survey_card};

use super::parts::total;
use super::*;
use crate::args::ByteSize;

const GB: u64 = 1_000_000_000;

fn need(model: &str, place: Place, dtype: Option<DType>) -> Need {
    let card = catalog::find(model).unwrap();
    survey_card(card, place, dtype).unwrap().unwrap()
}

fn wishes(place: Place) -> Wishes {
    Wishes {
        kv_dtype: match place {
            Place::Cpu => KvDtype::F32,
            Place::Cuda => KvDtype::Bf16,
        },
        memory: None,
        max_model_len: None,
        max_num_seqs: 64,
        max_num_batched_tokens: 2048,
        max_images: 5,
        cross_memory: None,
        encoder_cache: 512 << 20,
        utilization: (place == Place::Cuda).then_some(0.9),
    }
}

fn plan(need: &Need, free: u64, wishes: &Wishes) -> Result<MemoryPlan, Refusal> {
    let subject = Subject {
        need,
        weights: Known::Card,
        profile: None,
    };
    let machine = Machine {
        place: need.compute.place,
        free,
    };
    solve(subject, machine, wishes)
}

/// What every plan must be.
fn check(plan: &MemoryPlan, free: u64) {
    assert_eq!(plan.free, free);
    assert_eq!(total(&plan.parts) + plan.spare, free + plan.over);
    assert!(plan.spare == 0 || plan.over == 0);
    assert!(plan.kv_tokens() >= plan.max_model_len);
    let kinds: Vec<&str> = plan.parts.iter().map(|part| part.kind.key()).collect();
    let mut distinct = kinds.clone();
    distinct.dedup();
    assert_eq!(kinds, distinct);
}

const LLAMA: &str = "meta/llama-3.2-11b-vision-instruct";
const PHI: &str = "microsoft/phi-3.5-vision-instruct";

#[test]
fn the_parts_of_every_model_are_the_whole() {
    for card in catalog::cards() {
        for (place, free) in [(Place::Cuda, 400 * GB), (Place::Cpu, 2000 * GB)] {
            let Some(need) = survey_card(card, place, None).unwrap() else {
                continue;
            };
            let plan = plan(&need, free, &wishes(place)).unwrap();
            check(&plan, free);
            assert_eq!(plan.max_model_len, card.context, "{}", card.id);
            let looks = card.architecture == "mllama";
            assert_eq!(plan.bytes(PartKind::Cross) > 0, looks, "{}", card.id);
            let on_card = place == Place::Cuda;
            assert_eq!(plan.bytes(PartKind::Reserve) > 0, on_card);
            assert_eq!(plan.bytes(PartKind::KeptFree) > 0, on_card);
        }
    }
}

#[test]
fn llama_fits_a_card_of_80_gb_and_not_one_of_16() {
    let need = need(LLAMA, Place::Cuda, None);
    let wishes = wishes(Place::Cuda);
    let roomy = plan(&need, 80 * GB, &wishes).unwrap();
    check(&roomy, 80 * GB);
    assert_eq!(roomy.bytes(PartKind::Weights), 2 * 10_670_220_835);
    assert_eq!(roomy.bytes(PartKind::KeptFree), 8 * GB);
    assert_eq!(roomy.max_model_len, 131_072);
    // 32 layers x 2 x 8 heads x 128 x 2 bytes a token.
    let tokens = roomy.kv_tokens() as u64;
    assert_eq!(roomy.bytes(PartKind::KvCache), tokens * 131_072);

    let refusal = plan(&need, 16 * GB, &wishes).unwrap_err();
    let text = refusal.to_string();
    for part in [
        "weights 19.9 GiB",
        "14.9 GiB of memory are free",
        "no weights of 8 or 4 bits",
        "does not spread a model over several devices",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(total(&refusal.parts) > 16 * GB);
    // A little more than what it says is enough, a little less is not.
    let small = Wishes {
        max_num_batched_tokens: 256,
        encoder_cache: 0,
        ..wishes
    };
    let fits = |free| plan(&need, free, &small).is_ok();
    let mut least = 16 * GB;
    while !fits(least) {
        least += GB / 100;
    }
    let said = least as f64 / f64::from(1 << 30);
    let named = text.split("a device with ").nth(1).unwrap();
    let named: f64 = named.split(' ').next().unwrap().parse().unwrap();
    assert!((named - said).abs() < 0.11, "{named} {said}");
}

#[test]
fn a_small_cache_shortens_the_context_by_itself() {
    let need = need(PHI, Place::Cuda, None);
    let plan = plan(&need, 24 * GB, &wishes(Place::Cuda)).unwrap();
    check(&plan, 24 * GB);
    assert!(plan.max_model_len < 131_072 && plan.max_model_len.is_multiple_of(32));
    assert_eq!(plan.full_sequences(), 1);
    // One block more would not fit: its keys, and what a step over it takes.
    let longer = Wishes {
        max_model_len: Some(plan.max_model_len + 32),
        ..wishes(Place::Cuda)
    };
    let refusal = self::plan(&need, 24 * GB, &longer).unwrap_err().to_string();
    assert!(refusal.contains("`--max-model-len`"), "{refusal}");
}

#[test]
fn narrower_weights_are_offered_where_they_fit() {
    let wide = need(PHI, Place::Cuda, Some(DType::F32));
    let refusal = plan(&wide, 20 * GB, &wishes(Place::Cuda)).unwrap_err();
    let first = refusal.advice.first().unwrap();
    assert_eq!(
        first,
        "with `--dtype bf16` the weights take 7.7 GiB, which fits"
    );
}

#[test]
fn smaller_steps_are_offered_where_they_fit() {
    let need = need(PHI, Place::Cuda, None);
    let usual = wishes(Place::Cuda);
    // The least that the usual step fits into, and a little less.
    let mut free = 8 * GB;
    while plan(&need, free, &usual).is_err() {
        free += GB / 10;
    }
    let refusal = plan(&need, free - GB / 10, &usual).unwrap_err().to_string();
    assert!(
        refusal.contains("with `--max-num-batched-tokens 1024` it fits"),
        "{refusal}"
    );
}

#[test]
fn what_was_asked_for_is_refused_with_its_flag() {
    let need = need(PHI, Place::Cuda, None);
    let usual = wishes(Place::Cuda);
    let refused = |free, wishes: Wishes| plan(&need, free, &wishes).unwrap_err().to_string();
    let beyond = Wishes {
        max_model_len: Some(131_073),
        ..usual
    };
    assert_eq!(
        refused(80 * GB, beyond),
        "`--max-model-len` 131073 exceeds the 131072 positions that the model has"
    );
    let long = Wishes {
        max_model_len: Some(131_072),
        ..usual
    };
    let text = refused(24 * GB, long);
    assert!(text.contains("`--max-model-len` "), "{text}");
    let large = Wishes {
        memory: Some(ByteSize(30 * GB)),
        ..usual
    };
    let text = refused(24 * GB, large);
    assert!(text.contains("a `--kv-cache-memory` of"), "{text}");
    let none = Wishes {
        memory: Some(ByteSize(1)),
        ..usual
    };
    let text = refused(24 * GB, none);
    assert!(text.contains("cannot hold one block of 12.0 MiB"), "{text}");
    let short = Wishes {
        memory: Some(ByteSize(GB)),
        max_model_len: Some(131_072),
        ..usual
    };
    let text = refused(80 * GB, short);
    assert!(text.contains("`--max-model-len` 131072 needs"), "{text}");
}

#[test]
fn sizes_that_were_asked_for_are_kept() {
    let need = need(LLAMA, Place::Cuda, None);
    let wishes = Wishes {
        memory: Some(ByteSize(10 * GB)),
        cross_memory: Some(ByteSize(3 * GB)),
        encoder_cache: 7,
        ..wishes(Place::Cuda)
    };
    let plan = plan(&need, 80 * GB, &wishes).unwrap();
    check(&plan, 80 * GB);
    let block = need.spec.block_bytes(KvDtype::Bf16) as u64;
    assert_eq!(plan.bytes(PartKind::KvCache), 10 * GB / block * block);
    assert_eq!(plan.bytes(PartKind::Cross), 3 * GB);
    assert_eq!(plan.bytes(PartKind::Features), 7);
    // A size goes before a share.
    assert_eq!(plan.bytes(PartKind::KeptFree), 0);
}

#[test]
fn a_cpu_gives_its_caches_a_quarter_of_what_the_weights_leave() {
    let need = need("vlmd/tiny", Place::Cpu, None);
    let free = 2 * GB;
    let plan = plan(&need, free, &wishes(Place::Cpu)).unwrap();
    check(&plan, free);
    assert_eq!(plan.max_model_len, 2048);
    let most = (free - need.weight_bytes) / 4;
    let cache = plan.bytes(PartKind::KvCache);
    assert!(cache <= most && cache > most / 4, "{cache} {most}");
    assert_eq!(plan.bytes(PartKind::Reserve), 0);
    // Upper bounds turn nobody away.
    let tight = self::plan(&need, 100_000_000, &wishes(Place::Cpu)).unwrap();
    check(&tight, 100_000_000);
    assert!(tight.over > 0 && tight.max_model_len > 0);
    let refusal = self::plan(&need, 1_000_000, &wishes(Place::Cpu)).unwrap_err();
    assert!(refusal.to_string().contains("of free memory at least"));
}

#[test]
fn a_share_of_a_cpu_is_for_everything_together() {
    let need = need("vlmd/tiny", Place::Cpu, None);
    let wishes = Wishes {
        utilization: Some(0.5),
        max_num_seqs: 4096,
        ..wishes(Place::Cpu)
    };
    let plan = plan(&need, 8 * GB, &wishes).unwrap();
    check(&plan, 8 * GB);
    assert_eq!(plan.bytes(PartKind::KeptFree), 4 * GB);
    assert!(plan.spare < need.spec.block_bytes(KvDtype::F32) as u64);
}

#[test]
fn what_a_run_has_shown_counts_where_it_is_more() {
    let need = need(PHI, Place::Cuda, None);
    let machine = Machine {
        place: Place::Cuda,
        free: 40 * GB,
    };
    let profile = Profile {
        step: 9 * GB,
        encoder: 1,
    };
    let subject = Subject {
        need: &need,
        weights: Known::Measured,
        profile: Some(&profile),
    };
    let plan = solve(subject, machine, &wishes(Place::Cuda)).unwrap();
    check(&plan, 40 * GB);
    let known = |kind| {
        let part = plan.parts.iter().find(|part| part.kind == kind).unwrap();
        part.known
    };
    assert_eq!(plan.bytes(PartKind::Step), 9 * GB);
    assert_eq!(known(PartKind::Step), Known::Measured);
    assert_eq!(known(PartKind::Encoder), Known::Formula);
    assert!(plan.bytes(PartKind::Encoder) > 1);
}

#[test]
fn a_model_that_cannot_fit_is_not_fetched() {
    let card = catalog::find(LLAMA).unwrap();
    let machine = |free| Machine {
        place: Place::Cuda,
        free,
    };
    let usual = wishes(Place::Cuda);
    assert!(admit_card(card, None, machine(80 * GB), &usual).is_ok());
    let refused = |card, free| {
        let refused = admit_card(card, None, machine(free), &usual);
        refused.unwrap_err().to_string()
    };
    let text = refused(card, 16 * GB);
    assert!(text.starts_with("`meta/llama-3.2-11b-vision-instruct` does not fit: it takes"));
    assert!(text.ends_with("`vlmd download` fetches it all the same"));
    // Of NeVA the weights alone are known.
    let neva = catalog::find("nvidia/neva-22b").unwrap();
    assert!(admit_card(neva, None, machine(80 * GB), &usual).is_ok());
    assert!(refused(neva, 16 * GB).contains("its weights take 41.0 GiB"));
}
