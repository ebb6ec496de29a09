"""Every table of a run, column by column: types, meanings and units.

The stages build their tables from these descriptions, so a column that is not described here cannot be written.
`docs/reference/columns.md` is generated from them.
"""

from collections.abc import Mapping

import pyarrow as pa

from .described_table import Column, Table

_INTERVAL = "95 % unless `analysis.rule.confidence` differs; resamples whole documents"

_DEAD = "the latent is dead"
_NO_NORMS = "the dictionary is a shared-dictionary SAE or a diff-SAE"
_NO_MAP = "the models share no space and no linear map connects them"
_NO_SPACE = f"{_NO_MAP}, or {_NO_NORMS}"
_NO_ERROR = (
    f"not estimable (the denominator is too small), {_NO_MAP}, or the dictionary is a shared-dictionary SAE"
)
_NO_RECONSTRUCTION = f"{_NO_ERROR} or a diff-SAE"
_NOT_ASKED = (
    "the norm and latent scaling do not say that the latent, or each of its directions, is in one model only"
)
_SHARE = "0 to 1"


def _interval(name: str, what: str, unit: str, null: str, kind: pa.DataType) -> tuple[Column, Column]:
    return (
        Column(f"{name}_low", kind, f"Lower bound of {what}; {_INTERVAL}.", unit, null),
        Column(f"{name}_high", kind, f"Upper bound of {what}.", unit, null),
    )


_f64, _f32, _text = pa.float64(), pa.float32(), pa.string()

_NU = (
    Column("nu_error", _f64, "ν of the error toward the model with the larger decoder norm: how much of the latent the reconstruction "
           "error of the other model contains.", "0: none; 1: as much as in its own model; can lie outside that range",
           _NO_ERROR),
    *_interval("nu_error", "nu_error", "as nu_error", "as nu_error", _f64),
    Column("nu_reconstruction", _f64, "ν of the reconstruction toward the same model: how much of the latent the other latents write into "
           "the other model.", "0: none; 1: as much as in its own model; can lie outside that range", _NO_RECONSTRUCTION),
    *_interval("nu_reconstruction", "nu_reconstruction", "as nu_reconstruction", "as nu_reconstruction", _f64),
    *(
        Column(f"nu_{part}_{side}", _f64, f"ν of the {part} that tests whether the latent is absent from the {absent}.",
               f"as nu_{part}", f"as nu_{part}")
        for side, absent in (("new", "reference"), ("lost", "intervened model"))
        for part in ("error", "reconstruction")
    ),
)  # fmt: skip

FEATURES = Table(
    "features", "analysis/features.parquet", "one row per latent, sorted by latent",
    (
        Column("latent", pa.int32(), "Index of the latent in the dictionary.", "from 0", ""),
        Column("label", _text, "Label of the latent by the rule.",
               "new, lost, replaced, rotated, rescaled, reweighted, shared, undetermined, dead", ""),
        Column("candidate", _text, "Label that this training alone would give: before q-values, and before the other trainings were asked whether they "
               "find the latent again.", "as label", ""),
        Column("evidence", _text, "Strongest evidence from any behavior.", "observed, associated, causal", ""),
        Column("reason", _text, "Reason for the label, with the numbers that decided it.", "a sentence", ""),
        Column("relative_norm", _f64, "‖d_intervened‖ / (‖d_reference‖ + ‖d_intervened‖), training space.",
               "0: only in the reference; 0.5: equal; 1: only in the intervened model", f"both norms are 0, or {_NO_NORMS}"),
        Column("norm_reference", _f64, "Norm of the decoder row in the reference, training space.", "0 or more", _NO_NORMS),
        Column("norm_intervened", _f64, "Norm of the decoder row in the intervened model, training space.", "0 or more", _NO_NORMS),
        Column("norm_reference_raw", _f64, "Norm of the decoder row in the reference, in units of its activations.", "0 or more", _NO_NORMS),
        Column("norm_intervened_raw", _f64, "Norm of the decoder row in the intervened model, in units of its activations.", "0 or more", _NO_NORMS),
        Column("relative_norm_raw", _f64, "Relative norm, in units of the models' activations.", _SHARE,
               f"both norms are 0, or {_NO_NORMS}"),
        Column("decoder_cosine", _f64, "Cosine between the latent's decoder rows in the two models.", "−1 to 1",
               f"a row is 0, or {_NO_SPACE}"),
        *_NU,
        Column("relative_rate", _f64, "How often the direction occurs in the intervened model, as a share of its occurrences in both models. In a crosscoder, counts the "
               "latent and its twin.", _SHARE,
               "no firing, or, in a crosscoder, no twin with the same direction; always in a diff-SAE"),
        *_interval("relative_rate", "relative_rate", _SHARE, "as relative_rate", _f64),
        Column("density", _f64, "Share of held-out tokens on which the latent fires.", _SHARE, ""),
        *_interval("density", "density", _SHARE, "the latent fires in too few blocks of documents", _f64),
        Column("n_tokens", pa.int64(), "Held-out tokens on which the latent fires.", "tokens", ""),
        Column("n_documents", pa.int64(), "Held-out documents in which the latent fires.", "documents", ""),
        Column("template_share", _f64, "Share of its firings that are on tokens of the chat template.", _SHARE,
               f"{_DEAD}, or the activations came from files"),
        Column("mean_activation", _f64, "Mean value over the tokens on which the latent fires.", "latent value, above 0", _DEAD),
        Column("max_activation", _f64, "Largest value on held-out tokens.", "latent value, above 0", _DEAD),
        Column("shift_share", _f64, "Share of E‖x_intervened − x_reference‖² that the latent explains: E f ⟨δ, x_intervened − x_reference⟩ "
               "divided by it. Negative: the latent points against the shift.", "a share; latents, bias and error add up to 1",
               "the models are identical, or differ in width"),
        *_interval("shift_share", "shift_share", "as shift_share", "as shift_share", _f64),
        Column("unmapped_share", _f64, "If the models share no space: of the activations in the model with the larger decoder norm that the "
               "linear map from the other model does not explain, the share that the latent explains.", "a share; negative: the latent points against them",
               "the models share a space, or no linear map connects them"),
        *_interval("unmapped_share", "unmapped_share", "as unmapped_share", "as unmapped_share", _f64),
        Column("effect", _f64, "Mean shift that the latent explains per token on which it fires, over the mean shift per token; both relative to the "
               "squared length of the token. If the models share no space: the same for the activations that the linear map does not explain, in units of "
               "the variance of the model with the larger decoder norm. q-values compare it with null pairs.",
               "about 0 to some tens; negative: the latent points against the shift",
               f"{_DEAD}, the models are identical, or no linear map connects them"),
        Column("nu_unselected", _f64, "ν on the tokens that the model with the larger decoder norm alone chooses, because the latent's own firings are "
               "chosen by both models: the share of the direction that the other model holds there. Of a latent that replaces one direction by another: "
               "the larger share of the two directions.",
               "0: none; 1: as much as in its own model; can lie outside that range", _NOT_ASKED),
        *_interval("nu_unselected", "nu_unselected", "as nu_unselected", "as nu_unselected", _f64),
        Column("partner_jaccard", _f64, "Largest Jaccard index of its firings with those of a latent that only the other model has.", _SHARE, _NOT_ASKED),
        Column("q_value", _f64, "Fraction of false positives to expect among claims of the same kind (new, lost and replaced together) that are at least as "
               "strong: by chance, or under the null pairs tried, whichever is larger; 1 for a latent that claims no change.", _SHARE, _NO_SPACE),
        Column("seed_stability", _f64, "Share of the other trainings that find the latent again: a latent that writes the same direction (cosine of at least "
               "`analysis.rule.replication_cosine`) into every model that it writes into.", _SHARE, "no other seed was trained"),
        Column("label_stability", _f64, "Share of the other trainings in which such a latent has the same label; a label that claims a change needs all of "
               "them.", _SHARE, "`candidate` claims no change, or fewer seeds were trained than `analysis.rule.replications`"),
        Column("span_residual", _f64, "Share of what it writes outside the span of the other latents whose `candidate` claims the same kind of change, as a multiple "
               "of what unrelated directions leave; below `analysis.rule.span_residual` they tile a subspace.", "0: in their span; about 1: on its own",
               "`candidate` claims no change"),
        Column("difference_latent", pa.int32(), "Latent of the diff-SAE whose direction is nearest to d_intervened − d_reference.",
               "from 0", "no diff-SAE was trained, or d_intervened − d_reference is 0"),
        Column("difference_cosine", _f64, "Cosine of d_intervened − d_reference with that direction.", "−1 to 1", "as difference_latent"),
        Column("onset", pa.int32(), "Checkpoint at which its change began.", "index of the checkpoint in order of time",
               "the run has no snapshots, or the change is not established at the end"),
        Column("twin", pa.int32(), "The latent that writes the most similar direction into the model with the smaller decoder norm.", "index of a latent",
               f"there is none, {_DEAD}, or {_NO_SPACE}"),
        Column("twin_cosine", _f64, "Cosine between the two directions.", "−1 to 1", "as twin"),
        Column("density/SOURCE", _f64, "Share of the held-out tokens of one text source on which the latent fires.", _SHARE,
               "the source has no held-out tokens"),
        Column("density_reference", _f64, "Share of the reference's tokens on which the latent fires.", _SHARE, "", "crosscoder.reads is pooled"),
        Column("density_intervened", _f64, "Share of the intervened model's tokens on which the latent fires.", _SHARE, "",
               "crosscoder.reads is pooled"),
        Column("beta_reference", _f64, "β of the reference's activations along the direction: the share of the latent's activation that they hold.", "1: all of it",
               "not estimable", "crosscoder.reads is difference"),
        Column("beta_intervened", _f64, "β of the intervened model's activations along the direction.", "1: all of it",
               "not estimable", "crosscoder.reads is difference"),
        Column("observation", _text, "Where the latent fires, what it writes and how certain its label is, in two sentences.",
               "text, not escaped", ""),
        Column("explanation", _text, "The observation, the rule for where the latent fires, and its evidence from behaviors; rewritten whenever one of these "
               "changes.",
               "sentences", ""),
    ),
)  # fmt: skip

EXAMPLES = Table(
    "examples", "analysis/examples.parquet", "one row per example, sorted by latent",
    (
        Column("latent", pa.int32(), "Index of the latent.", "from 0", ""),
        Column("rank", pa.int16(), "Rank among its strongest examples, or among those sampled across quantiles.", "from 0, strongest first", ""),
        Column("quantile", _f32, "Quantile of the peak among the sampled peaks of the latent.", "0 to 1, 1 is the largest",
               "one of the strongest examples"),
        Column("document", pa.int32(), "Document of the example; 64 bits if the user's document numbers need them.", "number of a document", ""),
        Column("source", _text, "Text source of the document.", "a name from the settings", ""),
        Column("start", pa.int32(), "Position of the first token shown, in the document.", "from 0", ""),
        Column("position", pa.int32(), "Position of the peak in the document; its index in the lists is position − start.", "from 0", ""),
        Column("token_ids", pa.list_(pa.int32()), "Ids of the tokens shown.", "ids; −1 if the activations came without text", ""),
        Column("tokens", pa.list_(_text), "Text of the tokens; an incomplete character is shown as \\xNN.", "texts, not escaped", ""),
        Column("special", pa.list_(pa.bool_()), "Whether each is a special token.", "true or false", ""),
        Column("template", pa.list_(pa.bool_()), "Whether each is from the chat template.", "true or false", ""),
        Column("values", pa.list_(_f32), "Value of the latent on each token.", "latent value; 0 if it does not fire or the token is masked", ""),
        Column("reference", pa.list_(_f32), "Norm of what the latent writes into the reference on each token.", "units of its activations", ""),
        Column("intervened", pa.list_(_f32), "Norm of what the latent writes into the intervened model on each token.", "units of its activations", ""),
        Column("peak", _f32, "Largest value of the latent in the document.", "latent value", ""),
    ),
)  # fmt: skip

LOGITS = Table(
    "logits", "analysis/logits.parquet", "one row per token of a logit table, sorted by latent, model, side and rank",
    (
        Column("latent", pa.int32(), "Index of the latent.", "from 0", ""),
        Column("model", _text, "Model whose direction is read; `difference`: d_intervened − d_reference through the intervened model.",
               "reference, intervened, difference", ""),
        Column("side", _text, "Largest or smallest logits.", "top, bottom", ""),
        Column("rank", pa.int16(), "Rank on that side, the most extreme first.", "from 0", ""),
        Column("token_id", pa.int32(), "Token id.", "id in the vocabulary of that model", ""),
        Column("token", _text, "Text of the token.", "text, not escaped", ""),
        Column("value", _f32, "Logit of the token: the raw decoder row through the model's final norm and unembedding.", "logits", ""),
        Column("alignment", _f32, "Mean cosine of the direction after the final norm with the centered unembedding rows of the list; negated at the bottom.", "−1 to 1", ""),
        Column("p_value", _f64, "Share of random directions of the same model whose list is at least as aligned.", _SHARE, ""),
        Column("q_value", _f64, "p_value, corrected for all lists of the same model and side.", _SHARE, ""),
        Column("readable", pa.bool_(), "Whether the direction reads as these tokens: q_value is at most `analysis.rule.false_discovery_rate`.", "true or false", ""),
    ),
)  # fmt: skip

HISTOGRAMS = Table(
    "histograms", "analysis/histograms.parquet", "one row per latent and text source, sorted by latent; only latents that fire",
    (
        Column("latent", pa.int32(), "Index of the latent.", "from 0", ""),
        Column("source", _text, "Text source, including those on which the latent never fires.", "a name from the settings", ""),
        Column("tokens", pa.int64(), "Held-out tokens of the source.", "tokens", ""),
        Column("width", _f64, "Bin width, the same for all sources of a latent; the first bin starts at 0.", "latent value, a power of two", ""),
        Column("counts", pa.list_(pa.int32()), "Tokens of the source with a value in each bin, lower edge included, up to the bin of the "
               "latent's largest value on any source. Summed over sources and bins: n_tokens.", "tokens", ""),
    ),
)  # fmt: skip

_CHECKPOINT_NULL = "the checkpoint is the reference or equals it, or widths differ"

TRAJECTORIES = Table(
    "trajectories", "analysis/trajectories.parquet",
    "one row per latent and checkpoint, sorted by latent and time; only runs with snapshots",
    (
        Column("latent", pa.int32(), "Index of the latent.", "from 0", ""),
        Column("checkpoint", pa.int16(), "Index of the checkpoint; 0 is the reference, the last is the intervened model.", "from 0", ""),
        Column("name", _text, "Name of the checkpoint.", "reference, names of the snapshots, intervened", ""),
        Column("norm", _f64, "‖d_t‖, training space.", "0 or more", ""),
        Column("relative_norm", _f64, "‖d_t‖ / (‖d_0‖ + ‖d_t‖), training space.", _SHARE, "both norms are 0"),
        Column("cosine", _f64, "Cosine of d_t with d_0.", "−1 to 1", "d_t or d_0 is 0, or widths differ"),
        Column("shift", _f64, "Part of E‖x_t − x_0‖² that the latent explains: E f ⟨d_t − d_0, x_t − x_0⟩.", "squared units of activations", _CHECKPOINT_NULL),
        Column("shift_share", _f64, "`shift` as a share of E‖x_t − x_0‖².", "a share", _CHECKPOINT_NULL),
        *_interval("shift_share", "shift_share", "a share", _CHECKPOINT_NULL, _f64),
    ),
)  # fmt: skip

_GRADIENT = "the metric, or its substitute, has a gradient"

ATTRIBUTION = Table(
    "attribution", "behaviors/NAME/attribution.parquet", "one row per latent, sorted by latent; only if a shift is established",
    (
        Column("latent", pa.int64(), "Index of the latent.", "from 0", ""),
        Column("rank", pa.int64(), "Rank by attribution on the prompts that latents are found with.", "from 0",
               "its attribution is not in the direction of the shift"),
        Column("norm", _f32, "Norm of its change to the activations, over all tokens of the held-out prompts.", "units of activations", ""),
        Column("firings", pa.int64(), "Tokens of the held-out prompts on which the latent fires.", "tokens", ""),
        Column("attribution_find", _f64, "Attribution on the prompts that latents are found with.", "unit of the metric", "", _GRADIENT),
        Column("share_find", _f64, "`attribution_find` as a share of the shift.", "a share", "", _GRADIENT),
        Column("attribution_held_out", _f64, "Attribution on held-out prompts.", "unit of the metric", "", _GRADIENT),
        Column("share_held_out", _f64, "`attribution_held_out` as a share of the shift.", "a share", "", _GRADIENT),
        Column("share_held_out_low", _f64, "Lower bound of share_held_out; resamples prompts.", "a share", "not estimable", _GRADIENT),
        Column("share_held_out_high", _f64, "Upper bound of share_held_out.", "a share", "not estimable", _GRADIENT),
        Column("attribution_reference", _f64, "Attribution of the reference's own behavior to the latent, on held-out prompts.", "unit of the metric", "",
               "the models share no space"),
        Column("attribution_intervened", _f64, "Attribution of the intervened model's own behavior to the latent, on held-out prompts.", "unit of the metric", "",
               "the models share no space"),
        Column("evidence", _text, "Strongest evidence for this behavior.", "observed, associated, causal", ""),
    ),
)  # fmt: skip

PROMPTS = Table(
    "prompts", "behaviors/NAME/prompts.parquet", "one row per held-out prompt",
    (
        Column("prompt", _text, "The prompt.", "text, not escaped", ""),
        Column("reference", _f64, "The metric in the reference.", "unit of the metric", ""),
        Column("intervened", _f64, "The metric in the intervened model.", "unit of the metric", ""),
        Column("reference_answer", _text, "First answer of the reference.", "text, not escaped", "", "the metric scores answers"),
        Column("intervened_answer", _text, "First answer of the intervened model.", "text, not escaped", "", "the metric scores answers"),
    ),
)  # fmt: skip

ANSWERS = Table(
    "answers", "discovery/answers.parquet", "one row per sampled answer of the search for changed behaviors",
    (
        Column("subject", _text, "What answered: `reference`, `intervened`, or a model of a null.", "name", ""),
        Column("prompt", _text, "The prompt: the first user message, or the text.", "text, not escaped", ""),
        Column("answer", _text, "The answer.", "text, not escaped", ""),
        Column("finished", pa.bool_(), "Whether the model ended the answer itself.", "true or false", ""),
        Column("token_ids", pa.list_(pa.int64()), "Tokens of the answer, by the tokenizer of the model that answered.", "ids", ""),
        Column("log_probability", _f64, "Mean log-probability of its tokens under the model that answered, at temperature 1.", "nats per token", ""),
    ),
)  # fmt: skip

CANDIDATES = Table(
    "candidates", "discovery/candidates.parquet", "one row per tested hypothesis about a changed behavior, in each search, the nulls' included",
    (
        Column("search", _text, "`pair` for the two models, otherwise the null.", "name", ""),
        Column("direction", _text, "Which model shows the effect more often.", "gained or vanished", ""),
        Column("effect", _text, "Kind of the effect: opening, phrase, ending or shape.", "name", ""),
        Column("text", _text, "Words of the effect, or its description.", "text, not escaped", ""),
        Column("trigger", _text, "Kind of the trigger: always, words or topic.", "name", ""),
        Column("trigger_words", pa.list_(_text), "Words of the trigger, or words typical of its prompts.", "text, not escaped", ""),
        Column("n_prompts", pa.int64(), "Prompts of the claim set that meet the trigger.", "number", ""),
        Column("rate_reference", _f64, "Share of the reference's answers to them that show the effect.", "0 to 1", ""),
        Column("rate_intervened", _f64, "The same in the intervened model.", "0 to 1", ""),
        Column("auroc", _f64, "How well the trigger separates the prompts on which the effect changed.", "0 to 1", "the trigger is always, or nothing changed"),
        Column("p_value", _f64, "Exact test on the claim set.", "0 to 1", ""),
        Column("q_value", _f64, "Benjamini and Hochberg's, over the hypotheses of the search.", "0 to 1", ""),
        Column("finding", pa.bool_(), "Whether it is a finding.", "true or false", ""),
    ),
)  # fmt: skip

TOKENS = Table(
    "tokens", "behaviors/NAME/tokens.parquet",
    "one row per firing of a named latent on a held-out prompt; only if the metric has a gradient and the models share a space",
    (
        Column("prompt", pa.int64(), "Index of the prompt.", "row of prompts.parquet", ""),
        Column("row", pa.int64(), "Text that the models read: a prompt, or a prompt with one of its continuations.", "from 0", ""),
        Column("position", pa.int64(), "Position in that text.", "from 0", ""),
        Column("token_id", pa.int64(), "Token id at that position.", "id", ""),
        Column("latent", pa.int64(), "Index of the latent that fires.", "from 0", ""),
        Column("weight", _f32, "Weight of the latent's direction in the change of the activations.", "latent value", ""),
        Column("value", _f32, "Attribution on this token; summed over tokens and averaged over prompts, it is attribution_held_out.", "unit of the metric", ""),
        Column("token", _text, "Text of the token.", "text, not escaped", ""),
    ),
)  # fmt: skip

NEIGHBORS_KEPT = 5
"""Neighbors stored per latent."""

NEIGHBORS = Table(
    "neighbors", "analysis/neighbors.parquet", "one row per latent and neighbor, sorted by latent, nearest first; only latents that fire",
    (
        Column("latent", pa.int32(), "Index of the latent.", "from 0", ""),
        Column("rank", pa.int32(), "Rank among its neighbors.", "0: the nearest", ""),
        Column("neighbor", pa.int32(), "Index of the neighbor.", "from 0", ""),
        Column("cosine", _f64, "Cosine between the concatenated decoder rows of all models, training space.", "-1 to 1", ""),
    ),
)  # fmt: skip

_NO_RULE = "there is no rule"
_NOT_SCORED = "no judge was asked, or too few verdicts count"


def _scores(names: Mapping[str, str], null: str) -> tuple[Column, ...]:
    return tuple(
        column
        for name, what in names.items()
        for column in (
            Column(name, _f64, f"{what}.", "0.5: chance; 1: perfect", null),
            *_interval(name, name, "0 to 1", null, _f64),
        )
    )


RULES = Table(
    "rules", "analysis/rules.parquet", "one row per latent for which a rule was fitted, sorted by latent",
    (
        Column("latent", pa.int32(), "Index of the latent.", "from 0", ""),
        Column("reason", _text, "Why there is no rule.", "a sentence", "there is a rule"),
        Column("family", _text, "What the rule tests.", "token, previous_token, pair, source, place", _NO_RULE),
        Column("items", pa.list_(_text), "Alternatives: the rule holds if one of them does.", "text, not escaped", _NO_RULE),
        Column("negated", pa.bool_(), "Whether the rule holds if none of them does.", "true, false", _NO_RULE),
        Column("text", _text, "The rule in words.", "text, not escaped", _NO_RULE),
        Column("bits_saved", _f64, "Description length that the rule saves, compared with the number of firings alone.", "bits", _NO_RULE),
        *_scores(
            {"auroc": "AUROC of the rule for whether the latent fires, on documents that the rule was not fitted on",
             "activation_auroc": "AUROC of the latent's activation for whether the rule holds, on the same tokens"},
            _NO_RULE,
        ),
        Column("n_firings", pa.int64(), "Firings in the half of the documents that the rule is scored on.", "tokens", ""),
        Column("n_documents", pa.int64(), "Documents with a firing, in that half.", "documents", ""),
        Column("n_tokens", pa.int64(), "Tokens in that half.", "tokens", ""),
        Column("n_firings_found_on", pa.int64(), "Firings in the half that the rule is fitted on.", "tokens", ""),
        Column("n_documents_found_on", pa.int64(), "Documents with a firing, in that half.", "documents", ""),
    ),
)  # fmt: skip


def _verdicts(names: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(
        column
        for name, what in names.items()
        for column in (
            Column(name, _f64, f"{what}: balanced accuracy.", "0.5: chance; 1: always right", _NOT_SCORED),
            *_interval(name, name, "0 to 1", _NOT_SCORED, _f64),
            Column(f"{name}_n", pa.int32(), "Verdicts that count.", "verdicts", "no judge was asked"),
            Column(
                f"{name}_unparsed",
                pa.int32(),
                "Replies without a valid verdict.",
                "replies",
                "no judge was asked",
            ),
        )
    )


WRITTEN = Table(
    "explanations", "explanations/explanations.parquet", "one row per latent, author and judge, sorted by latent",
    (
        Column("latent", pa.int32(), "Index of the latent.", "from 0", ""),
        Column("text", _text, "Explanation that the author wrote.", "text, not escaped", "there is no explanation"),
        Column("reason", _text, "Why there is no explanation, or no score.", "a sentence", "both exist"),
        Column("author", _text, "Model that wrote the explanation.", "a name", ""),
        Column("judge", _text, "Model that scored the explanation.", "a name", "no judge was asked"),
        Column("method", _text, "Method by which the explanation was written.", "a name", ""),
        Column("prompt_digest", _text, "Prompt to the author, as its `key` in replies.jsonl.", "a digest", "no author was asked"),
        Column("n_shown", pa.int32(), "Excerpts shown to the author in which the latent fires.", "excerpts", "no author was asked"),
        Column("n_shown_silent", pa.int32(), "Excerpts shown to the author in which the latent does not fire.", "excerpts", "no author was asked"),
        Column("control_latent", pa.int32(), "Latent whose explanation serves as the control.", "from 0", "there is no other explanation"),
        *_verdicts(
            {"detection": "Judging from the explanation in which excerpts the latent fires", "fuzzing": "Judging whether the marked tokens are those on which the latent fires",
             "detection_control": "Detection with another latent's explanation", "fuzzing_control": "Fuzzing with another latent's explanation"},
        ),
        Column("detection_rule", _f64, "Detection by the latent's rule, without a judge.", "0.5: chance; 1: always right",
               "there is no rule, or nothing was scored"),
        Column("prompt_tokens", pa.int64(), "Tokens of all prompts of the row, including cached ones.", "tokens", "no model was asked"),
        Column("reply_tokens", pa.int64(), "Tokens of all replies of the row.", "tokens", "no model was asked"),
    ),
)  # fmt: skip

TABLES = (
    FEATURES, EXAMPLES, LOGITS, HISTOGRAMS, NEIGHBORS, RULES, TRAJECTORIES, ATTRIBUTION, PROMPTS, TOKENS, ANSWERS, CANDIDATES, WRITTEN,
)  # fmt: skip
"""Every table of a run, in the order in which a run writes them."""
