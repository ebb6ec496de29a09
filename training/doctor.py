"""Checks before any long work: whether the models can be compared, whether the hook is right, and what the run will need."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.batch import have_difference, split_models
from crosscoder.activations.shard_store import store_of
from crosscoder.config import CachedActivations, FileActivations, PairConfig, RunConfig, StreamedActivations
from crosscoder.config.behavior import Behavior
from crosscoder.dictionary.views import crosscoder_config
from crosscoder.errors import ConfigError, PairError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.pair_models import check_pair_gradients
from crosscoder.language_models.placement import n_bytes
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents

from .extraction import check_documents, extract, pack, pad, plan_batches, sample_documents
from .harvest import DISK_MARGIN, bytes_needed, plan_shards
from .inputs import describe_texts, read_documents
from .loaded_dictionary import with_shape
from .memory import LARGE, lacks_memory, machine_memory, plan, training_memory
from .recipe import brief_sweep_share, candidate_ks, choices, k_is_open, with_chosen, with_k
from .run_time import (
    COMPARED_DOCUMENTS,
    MEASURED_TOKENS,
    MeasureReading,
    Models,
    harvest_times,
    measured_source,
    time_section,
)
from .sources import FileSource
from .survey import layer_lines, survey_layers
from .survey.layers import unbiased_cka

# Documents that the hook is checked on, and the tokens to which each is truncated.
_CHECKED_DOCUMENTS = 10
_CHECKED_TOKENS = 64

# Largest relative difference between two passes that can be due to rounding.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def doctor(
    config: RunConfig, behaviors: Sequence[Behavior] = (), reading: MeasureReading | None = None
) -> str:
    """Check everything that a run will use, estimate what it needs, and return the text to print.

    Args:
        behaviors: Those that the run names.
        reading: Measures the stages after the training; None leaves them out.

    Raises:
        PairError: The models cannot be compared, or the hook does not read the layer's output.
        CrosscoderError: Anything else that would stop the run later.
    """
    sections = (
        _examine_files(config, config.activations, behaviors, reading)
        if isinstance(config.activations, FileActivations)
        else _examine_pair(config, behaviors, reading)
    )
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections.items()
    )


def _examine_pair(
    config: RunConfig, behaviors: Sequence[Behavior], reading: MeasureReading | None
) -> dict[str, list[str]]:
    """Report sections for a pair of language models."""
    assert config.pair is not None
    settings = config.activations
    assert isinstance(settings, CachedActivations | StreamedActivations)
    pair = load_pair(config.pair, middle_if_open=True)
    where = _open_hookpoint(config.pair, pair)
    # Without answers that have to be asked for first.
    run = RunFolder(config.output)
    documents = read_documents(run, config, pair, joining=run.transcripts.is_file())
    check_documents(documents, pair)
    checks = [check_hook(pair, documents, model) for model in range(len(pair.models))]
    values, speed = _measure(pair, documents, settings)
    n_train, n_held_out = (int(documents.unmasked[documents.split(side)].sum()) for side in (False, True))
    config, recipe, sweep_share = _settled(config, pair.d_models, n_train)
    begin = time.perf_counter()
    layers = _describe_layers(pair, documents)
    layer_seconds = time.perf_counter() - begin
    source = measured_source(values, pair.d_models)
    before = harvest_times(config, settings, documents, speed, layer_seconds)
    models = Models(pair, documents, _weight_bytes(pair), before)
    return {
        "models": [
            *_describe_pair(pair),
            *_describe_tokenizers(pair, documents),
            *checks,
            *where,
        ],
        "activations": _describe_activations(values, pair.d_models),
        "layers": layers,
        "texts": describe_texts(documents, config),
        "recipe": recipe,
        "requirements": [
            f"speed    {speed:,.0f} tokens/s through all models, on {pair.device.type}",
            *_estimate_disk(config, settings, pair, documents),
            *_estimate_memory(config, pair.d_models, models.weight_bytes, n_train, n_held_out),
        ],
        **time_section(
            config,
            sweep_share,
            source,
            n_train,
            n_held_out,
            models,
            behaviors,
            reading,
        ),
    }


def _open_hookpoint(settings: PairConfig, pair: ModelPair) -> list[str]:
    if settings.hookpoint is not None:
        return []
    return [
        f"hookpoint   left open: `crosscoder run` chooses a decoder layer; what is measured here was read at {pair.hookpoints[0]}"
    ]


def _examine_files(
    config: RunConfig,
    settings: FileActivations,
    behaviors: Sequence[Behavior],
    reading: MeasureReading | None,
) -> dict[str, list[str]]:
    """Report sections for a user's own arrays. Opening the files checks their shapes and that all values are finite."""
    source = FileSource(settings, config.seed)
    held_out = source.held_out()
    config, recipe, sweep_share = _settled(config, source.d_models, source.n_train_tokens)
    return {
        "files": [
            f"reference   {settings.reference}  [{source.n_train_tokens + held_out.n_tokens:,}, {source.d_models[0]}]",
            f"intervened  {settings.intervened}  [{source.n_train_tokens + held_out.n_tokens:,}, {source.d_models[1]}]",
            *(
                f"snapshot    {path}  [{source.n_train_tokens + held_out.n_tokens:,}, {d_model}]"
                for path, d_model in zip(settings.snapshots, source.d_models[2:], strict=True)
            ),
            "all values are finite",
            f"rows        {source.n_train_tokens:,} to train on, {held_out.n_tokens:,} held out",
        ],
        "activations": _describe_activations(source.sample(MEASURED_TOKENS), source.d_models),
        "recipe": recipe,
        "requirements": _estimate_memory(
            config, source.d_models, 0, source.n_train_tokens, held_out.n_tokens
        ),
        **time_section(
            config, sweep_share, source, source.n_train_tokens, held_out.n_tokens, None, behaviors, reading
        ),
    }


def check_hook(pair: ModelPair, documents: Documents, model: int) -> str:
    """Compare the activations that a run reads with the output of the layer in a full pass, on a few short documents.

    A run shares layers between the models and stops at the hookpoint; the full pass does neither.

    Raises:
        PairError: They differ by more than rounding.
    """
    name, hookpoint, layer = pair.model_names[model], pair.hookpoints[model], pair.layer(model)
    if layer is None:
        return f"hook        {name}: {hookpoint} is not a decoder layer, so no layer output exists to check it against"
    chosen = np.concatenate(plan_batches(documents, False, 1, 0))[:_CHECKED_DOCUMENTS]
    token_ids, mask = pad(documents, chosen, pair.max_positions, model)
    token_ids, mask = token_ids[:, :_CHECKED_TOKENS], mask[:, :_CHECKED_TOKENS]
    states = pair.full_pass(token_ids, mask, model).states
    assert states is not None, "the hookpoint is a decoder layer"
    read = (
        pair.activations(token_ids, mask)[model]
        if pair.readers is None
        else pair.activations_of(model, token_ids, mask)
    )
    difference = _relative_difference(read[mask.to(read.device)], states[layer + 1][mask.to(read.device)])
    if not difference <= _TOLERANCES.get(read.dtype, _TOLERANCES[torch.float32]):
        raise PairError(
            f"pair.hookpoint: the activations that the hook reads at {hookpoint} of the {name} model differ from the output of decoder "
            f"layer {layer} in a full pass by {difference:.1%} of the norm; choose another layer, and file an issue that names the model"
        )
    return (
        f"hook        {name}: equals the output of layer {layer} in a full pass of {len(chosen)} documents "
        f"(largest difference {difference:.1e})"
    )


def _relative_difference(
    read: Float[Tensor, "token d_model"], expected: Float[Tensor, "token d_model"]
) -> float:
    """Largest norm of a token's difference, relative to the expected norm of that token."""
    norms = expected.float().norm(dim=1).clamp_min(1e-12)
    return float(((read.float() - expected.float()).norm(dim=1) / norms).max())


def _measure(
    pair: ModelPair, documents: Documents, settings: CachedActivations | StreamedActivations
) -> tuple[Float[Tensor, "token width"], float]:
    """Activations of a few batches, and tokens per second. The hook check has already warmed up the models."""
    chosen = sample_documents(documents, MEASURED_TOKENS, seed=0)
    batches = pack(chosen, documents.lengths, settings.batch_tokens)
    begin = time.perf_counter()
    values = torch.cat([extract(pair, documents, batch).values for batch in batches])
    return values, len(values) / (time.perf_counter() - begin)


def _describe_pair(pair: ModelPair) -> list[str]:
    identity = pair.identity()
    lines = []
    for name in pair.model_names:
        side = identity[name]
        shown = f"{side['model']} + adapter {side['adapter']}" if side["adapter"] else side["model"]
        if side.get("context") and pair.context is not None:
            shown += f" after a context of {len(pair.context)} tokens"
        lines.append(f"{name:<11} {shown}, {side['dtype']}, {side['d_model']} wide at {side['hookpoint']}")
    if pair.networks.own_copies:
        lines.append(
            "weights     each adapter has a copy of the reference's weights of its own, because attaching it changes them"
        )
    try:
        check_pair_gradients(pair.config, pair.networks)
    except PairError as error:
        lines.append(f"gradients   none for attribution: {error}")
    if pair.identical:
        lines.append("reference and intervened are the same model: an identity control")
    if not have_difference(pair.d_models):
        lines.append(
            "widths      differ, so there is no difference to explain, and no latent can be labeled new, lost, rotated or shared"
        )
    return lines


def _describe_tokenizers(pair: ModelPair, documents: Documents) -> list[str]:
    """Describe the common tokenizer, or the alignment of two."""
    aligned = documents.alignment
    if pair.readers is None or aligned is None:
        template = "with a chat template" if pair.chat_template else "without a chat template"
        return [f"tokenizer   the same for all models, {len(pair.tokenizer):,} tokens, {template}"]
    sizes = [len(reader.tokenizer) for reader in pair.readers]
    lines = [
        f"tokenizers  {sizes[0]:,} tokens in the reference, {sizes[1]:,} in the intervened model: aligned by characters",
        f"aligned     {aligned.n_places:,} positions: {aligned.rates[0]:.1%} of the reference's tokens and {aligned.rates[1]:.1%} of the "
        "intervened model's; the other tokens are read, but not compared",
    ]
    if documents.template.any():
        lines.append(
            "chats       each model reads them in its own template; only the text of the messages is compared"
        )
    return lines


def _describe_activations(values: Float[Tensor, "token width"], d_models: Sequence[int]) -> list[str]:
    parts = [part.float() for part in split_models(values, d_models)]
    reference, intervened = parts[:2]
    norms = [float(part.norm(dim=1).median()) for part in parts]
    cka = unbiased_cka(reference, intervened)
    lines = [
        f"norm        median {norms[0]:.4g} in the reference, {norms[1]:.4g} in the intervened model, over {len(values):,} tokens",
        f"linear CKA  {'–' if cka is None else f'{cka:.4f}'}",
    ]
    if between := norms[2:]:
        lines.insert(1, f"snapshots   median {', '.join(f'{norm:.4g}' for norm in between)}")
    if reference.shape == intervened.shape:
        cosine = torch.nn.functional.cosine_similarity(reference, intervened, dim=1)
        change = (intervened - reference).norm(dim=1) / reference.norm(dim=1)
        lines.append(f"cosine      mean {float(cosine.mean()):.4f}, lowest {float(cosine.min()):.4f}")
        lines.append(f"change      median {float(change.median()):.1%} of the reference's norm")
    return lines


def _describe_layers(pair: ModelPair, documents: Documents) -> list[str]:
    """How far the models differ at each layer, to choose the hookpoint by."""
    layers = survey_layers(pair, documents, COMPARED_DOCUMENTS)
    if layers is None:
        return ["a model has no decoder layers that run one after another, so layers cannot be compared"]
    return [
        "CKA: linear and unbiased; change: E‖difference‖² over the variance of the reference",
        *layer_lines(layers),
    ]


def _estimate_disk(
    config: RunConfig,
    settings: CachedActivations | StreamedActivations,
    pair: ModelPair,
    documents: Documents,
) -> list[str]:
    unmasked = documents.unmasked
    plans = plan_shards(config, settings, documents)
    n_tokens = sum(int(unmasked[batch].sum()) for plan in plans.values() for group in plan for batch in group)
    needed, stored = bytes_needed(n_tokens, pair.d_models, settings.dtype) * DISK_MARGIN, ""
    store = store_of(settings, config.output)
    if store is not None:
        stored = f", of {needed / 1e9:.2f} GB at {store.url}"
        needed = min(needed, store.cache.most_bytes * DISK_MARGIN)
    free = shutil.disk_usage(_nearest_existing_folder(config.output)).free
    verdict = (
        "" if needed <= free else ": TOO LITTLE; use activations.kind stream, less text, or another disk"
    )
    return [f"disk     {needed / 1e9:.2f} GB for activations{stored}, {free / 1e9:.1f} GB free{verdict}"]


def _settled(
    config: RunConfig, d_models: tuple[int, ...], n_train: int
) -> tuple[RunConfig, list[str], float]:
    """Fill in the settings that the run leaves open, as training will; return the lines that name them, and the training tokens of the
    sweep over k as a share of those of the training.

    Only a sweep can choose k, so the largest one that it would try stands in its place.
    """
    if config.crosscoder.load is not None:
        return with_shape(config, d_models), ["the dictionary is loaded, so nothing is chosen"], 0.0
    found = choices(config, d_models, n_train)
    config, lines = with_chosen(config, found), [str(choice) for choice in found]
    sweep_share = 0.0
    if k_is_open(config):
        ks = candidate_ks(config, d_models)
        config = with_k(config, ks[0])
        if have_difference(d_models):
            sweep_share = brief_sweep_share(config, d_models)
            lines.append(
                f"crosscoder.sparsity.k by a short sweep over {', '.join(map(str, ks))} before the training, which takes up to "
                f"{sweep_share:.1f} times as long; estimates below are for k {ks[0]}"
            )
    return config, lines or ["every setting is given"], sweep_share


def _estimate_memory(
    config: RunConfig, d_models: tuple[int, ...], weight_bytes: int, n_train: int, n_held_out: int
) -> list[str]:
    """Estimate the memory of training."""
    if config.crosscoder.load is not None:
        return ["train    nothing, because the dictionary is loaded"]
    shape = crosscoder_config(config.crosscoder, d_models)
    memory = training_memory(config, d_models, weight_bytes, n_train, n_held_out)
    machine, n_ranks = machine_memory(), config.training.latent_shards
    on_each = f"on each of {n_ranks} ranks " if n_ranks > 1 else ""
    verdict = (
        ""
        if not lacks_memory(memory)
        else ": TOO LITTLE; lower crosscoder.n_latents or training.batch_tokens"
    )
    available = "" if machine is None else f"; the machine has {machine / 1e9:.1f} GB{verdict}"
    return [
        f"memory   {on_each}{memory}{available}",
        *(f"{'' if line else 'plan':<8} {text}" for line, text in enumerate(plan([shape, LARGE], n_ranks))),
    ]


def _weight_bytes(pair: ModelPair) -> int:
    """Bytes of the weights of all models, counting shared weights once."""
    weights = {
        id(weight): weight for model in pair.models for weight in [*model.parameters(), *model.buffers()]
    }
    return sum(n_bytes(weight) for weight in weights.values())


def _nearest_existing_folder(path: Path) -> Path:
    """The nearest existing folder at or above `path`.

    Raises:
        ConfigError: A file is in the way.
    """
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise ConfigError(f"output: {path} is a file; give the path of a folder")
    return path
