"""Every table that a run leaves, column by column: the one source of their types, of what they mean, and of the reference.

The stages build their tables with these types, so a column that is not described here cannot be written. `docs/reference/columns.md`
is made from it.
"""

from collections.abc import Mapping

import pyarrow as pa

from .described_table import Column, Table

_INTERVAL = "95 % unless `analysis.rule.confidence` says otherwise; resamples whole documents"

_DEAD = "of a dead latent"
_NO_NORMS = "the dictionary is of pooled tokens or of the difference"
_NO_FRAME = "the models share no space and no linear map leads between them"
_NO_SPACE = f"{_NO_FRAME}, or {_NO_NORMS}"
_NO_ERROR = (
    f"not estimable (what it is divided by is too small), {_NO_FRAME}, or the dictionary is of pooled tokens"
)
_NO_RECONSTRUCTION = f"{_NO_ERROR} or of the difference"
_ONE_DIRECTION = f"a direction is missing, {_DEAD}, or {_NO_SPACE}"
_SHARE = "0 to 1"


def _interval(name: str, what: str, unit: str, null: str, kind: pa.DataType) -> tuple[Column, Column]:
    return (
        Column(f"{name}_low", kind, f"Lower bound of {what}; {_INTERVAL}.", unit, null),
        Column(f"{name}_high", kind, f"Upper bound of {what}.", unit, null),
    )


_f64, _f32, _text = pa.float64(), pa.float32(), pa.string()

_NU = (
    Column("nu_error", _f64, "ν of the error toward the side the latent leans to (the stronger decoder row): how much of the latent "
           "hides in what the dictionary leaves over of the other model.", "0: nothing; 1: as much as on its own side; may leave that range",
           _NO_ERROR),
    *_interval("nu_error", "nu_error", "as nu_error", "as nu_error", _f64),
    Column("nu_reconstruction", _f64, "ν of the reconstruction toward the same side: how much of the latent the other latents write into "
           "the other model.", "0: nothing; 1: as much as on its own side; may leave that range", _NO_RECONSTRUCTION),
    *_interval("nu_reconstruction", "nu_reconstruction", "as nu_reconstruction", "as nu_reconstruction", _f64),
    *(
        Column(f"nu_{part}_{side}", _f64, f"ν of the {part}, asking whether the latent is absent from the {absent}.",
               f"as nu_{part}", f"as nu_{part}")
        for side, absent in (("new", "reference"), ("lost", "intervened model"))
        for part in ("error", "reconstruction")
    ),
)  # fmt: skip

FEATURES = Table(
    "features", "analysis/features.parquet", "one row a latent, by latent",
    (
        Column("latent", pa.int32(), "Number of the latent in the dictionary.", "from 0", ""),
        Column("label", _text, "What the rule makes of the latent.",
               "new, lost, rotated, rescaled, reweighted, shared, undetermined, dead", ""),
        Column("evidence", _text, "The strongest that any behavior gives for it.", "observed, associated, causal", ""),
        Column("reason", _text, "Why it has its label, with the numbers that decided.", "a sentence", ""),
        Column("relative_norm", _f64, "‖d_intervened‖ / (‖d_reference‖ + ‖d_intervened‖), training space.",
               "0: only in the reference; 0.5: equal; 1: only in the intervened model", f"both norms are 0, or {_NO_NORMS}"),
        Column("norm_reference", _f64, "Norm of the decoder row of the reference, training space.", "0 or more", _NO_NORMS),
        Column("norm_intervened", _f64, "Norm of the decoder row of the intervened model, training space.", "0 or more", _NO_NORMS),
        Column("norm_reference_raw", _f64, "The same of the reference, in units of its activations.", "0 or more", _NO_NORMS),
        Column("norm_intervened_raw", _f64, "The same of the intervened model, in units of its activations.", "0 or more", _NO_NORMS),
        Column("relative_norm_raw", _f64, "Relative norm in units of the models' activations.", _SHARE,
               f"both norms are 0, or {_NO_NORMS}"),
        Column("decoder_cosine", _f64, "Cosine between the latent's decoder rows in the two models.", "−1 to 1",
               f"one of the rows is 0, or {_NO_SPACE}"),
        *_NU,
        Column("relative_rate", _f64, "How often the intervened model makes it fire, as a share of how often either does.", _SHARE,
               "it never fires, or the dictionary is not of pooled tokens"),
        *_interval("relative_rate", "relative_rate", _SHARE, "as relative_rate", _f64),
        Column("density", _f64, "Share of held-out tokens on which it fires.", _SHARE, ""),
        *_interval("density", "density", _SHARE, "", _f64),
        Column("n_tokens", pa.int64(), "Held-out tokens on which it fires.", "tokens", ""),
        Column("n_documents", pa.int64(), "Held-out documents in which it fires.", "documents", ""),
        Column("template_share", _f64, "Share of its firings that are on tokens of the chat template.", _SHARE,
               f"{_DEAD}, or activations came from files"),
        Column("mean_activation", _f64, "Mean value where it fires.", "latent value, above 0", _DEAD),
        Column("max_activation", _f64, "Largest value on held-out tokens.", "latent value, above 0", _DEAD),
        Column("shift_share", _f64, "Share of E‖x_intervened − x_reference‖² that it explains: E f ⟨δ, x_intervened − x_reference⟩ over "
               "that. Negative: it points the wrong way.", "a share; the shares of latents, bias and error add up to 1",
               "the models compute the same, or differ in width"),
        *_interval("shift_share", "shift_share", "as shift_share", "as shift_share", _f64),
        Column("unmapped_share", _f64, "Of models that share no space: share of what the linear map from the other model does not carry "
               "into the model that the latent leans to, that it explains.", "a share; negative: it points the wrong way",
               "the models share a space, or no map leads between them"),
        *_interval("unmapped_share", "unmapped_share", "as unmapped_share", "as unmapped_share", _f64),
        Column("effect", _f64, "The shift that it explains on a token where it fires, in units of the shift of a token; both relative to the "
               "squared length of the token. Of models that share no space: of what no map carries, in units of the variance of the model that "
               "it leans to. What q-values weigh.", "about 0 to some tens; negative: it points the wrong way",
               f"{_DEAD}, the models compute the same, or no map leads between them"),
        Column("q_value", _f64, "Expected share of false labels among like claims (new and lost together) that are at least this strong; 1 for a latent "
               "that would claim no change.", _SHARE, _NO_SPACE),
        Column("seed_stability", _f64, "Share of the other seeds' dictionaries that have it again: cosine of the decoder rows, all models "
               "side by side, above 0.7.", _SHARE, "no other seed was trained"),
        Column("difference_latent", pa.int32(), "The latent of the diff-SAE whose direction is nearest to its change of direction.",
               "from 0", "no diff-SAE was trained, or nothing of it changes"),
        Column("difference_cosine", _f64, "Cosine of its change of direction with that direction.", "−1 to 1", "as difference_latent"),
        Column("onset", pa.int32(), "Checkpoint at which its change began.", "number of the checkpoint in the order of time",
               "no snapshots, no change at the end, or none that is certain"),
        Column("twin", pa.int32(), "Nearest latent on the other side.", "number of a latent", "there is none on the other side"),
        Column("twin_cosine", _f64, "Cosine to it.", "−1 to 1", "as twin"),
        Column("density/SOURCE", _f64, "Share of the held-out tokens of one text source on which it fires.", _SHARE,
               "the source has no held-out token"),
        Column("density_reference", _f64, "Share of the reference's tokens on which it fires.", _SHARE, "", "crosscoder.reads is pooled"),
        Column("density_intervened", _f64, "Share of the intervened model's tokens on which it fires.", _SHARE, "",
               "crosscoder.reads is pooled"),
        Column("beta_reference", _f64, "How much of its activation the reference holds along its direction.", "1: all of it",
               "not estimable", "crosscoder.reads is difference"),
        Column("beta_intervened", _f64, "How much of its activation the intervened model holds along its direction.", "1: all of it",
               "not estimable", "crosscoder.reads is difference"),
        Column("observation", _text, "Where it fires, what it writes and how sure the label is, in two sentences made of the columns before.",
               "text, not escaped", ""),
        Column("explanation", _text, "The observation, the rule for where it fires, and what behaviors say of it: told anew whenever one of "
               "them is made.",
               "sentences", ""),
    ),
)  # fmt: skip

EXAMPLES = Table(
    "examples", "analysis/examples.parquet", "one row a place where a latent fires, by latent",
    (
        Column("latent", pa.int32(), "The latent.", "from 0", ""),
        Column("rank", pa.int16(), "Place among its strongest examples, or among those drawn over the quantiles.", "from 0, strongest first", ""),
        Column("quantile", _f32, "Where the peak lies among the sampled peaks of the latent.", "0 to 1, 1 is the largest",
               "of the strongest examples"),
        Column("document", pa.int32(), "The document; 64 bits where the user's own numbers need them.", "number of a document", ""),
        Column("source", _text, "The text source it is from.", "a name of the settings", ""),
        Column("start", pa.int32(), "Position in the document of the first token shown.", "from 0", ""),
        Column("position", pa.int32(), "Position of the peak in the document; its place in the lists is position − start.", "from 0", ""),
        Column("token_ids", pa.list_(pa.int32()), "Tokens shown.", "ids; −1 where activations came without text", ""),
        Column("tokens", pa.list_(_text), "The same as text; a piece of a character is \\xNN.", "texts, not escaped", ""),
        Column("special", pa.list_(pa.bool_()), "Which are special tokens.", "true or false", ""),
        Column("template", pa.list_(pa.bool_()), "Which are of the chat template.", "true or false", ""),
        Column("values", pa.list_(_f32), "Value of the latent on each.", "latent value; 0 where it does not fire or the token is masked", ""),
        Column("reference", pa.list_(_f32), "Norm of what the latent writes into the reference there.", "units of its activations", ""),
        Column("intervened", pa.list_(_f32), "Norm of what the latent writes into the intervened model there.", "units of its activations", ""),
        Column("peak", _f32, "Its largest value in the document.", "latent value", ""),
    ),
)  # fmt: skip

LOGITS = Table(
    "logits", "analysis/logits.parquet", "one row a token at an end of a logit table, by latent, model, side and rank",
    (
        Column("latent", pa.int32(), "The latent.", "from 0", ""),
        Column("model", _text, "Whose direction; `difference` is of the two, through the intervened model.",
               "reference, intervened, difference", ""),
        Column("side", _text, "The end of the table.", "top, bottom", ""),
        Column("rank", pa.int16(), "Place at that end.", "from 0", ""),
        Column("token_id", pa.int32(), "The token.", "id in the vocabulary of that model", ""),
        Column("token", _text, "The same as text.", "text, not escaped", ""),
        Column("value", _f32, "Its logit: the raw decoder row through the model's final norm and unembedding.", "logits", ""),
    ),
)  # fmt: skip

HISTOGRAMS = Table(
    "histograms", "analysis/histograms.parquet", "one row a latent and text source, by latent; of latents that fire",
    (
        Column("latent", pa.int32(), "The latent.", "from 0", ""),
        Column("source", _text, "The text source, also one on which the latent never fires.", "a name of the settings", ""),
        Column("tokens", pa.int64(), "Held-out tokens of the source.", "tokens", ""),
        Column("width", _f64, "Width of a bin, the same for all sources of a latent; the first bin begins at 0.", "latent value, a power of two", ""),
        Column("counts", pa.list_(pa.int32()), "SparseLatents on the source with a value in each bin, lower edge included, up to the bin of the "
               "latent's largest value on any source. Over all sources they add up to n_tokens.", "tokens", ""),
    ),
)  # fmt: skip

_CHECKPOINT_NULL = "at the reference, where nothing changed, or where widths differ"

TRAJECTORIES = Table(
    "trajectories", "analysis/trajectories.parquet",
    "one row a latent and checkpoint of a run with snapshots, by latent and in the order of time",
    (
        Column("latent", pa.int32(), "The latent.", "from 0", ""),
        Column("checkpoint", pa.int16(), "The checkpoint; 0 is the reference, the last the intervened model.", "from 0", ""),
        Column("name", _text, "Its name.", "reference, the snapshots, intervened", ""),
        Column("norm", _f64, "‖d_t‖, training space.", "0 or more", ""),
        Column("relative_norm", _f64, "‖d_t‖ / (‖d_0‖ + ‖d_t‖), training space.", _SHARE, "both norms are 0"),
        Column("cosine", _f64, "Cosine of d_t with d_0.", "−1 to 1", "one of them is 0, or widths differ"),
        Column("shift", _f64, "What it explains of E‖x_t − x_0‖²: E f ⟨d_t − d_0, x_t − x_0⟩.", "squared units of activations", _CHECKPOINT_NULL),
        Column("shift_share", _f64, "The same as a share of E‖x_t − x_0‖².", "a share", _CHECKPOINT_NULL),
        *_interval("shift_share", "shift_share", "a share", _CHECKPOINT_NULL, _f64),
    ),
)  # fmt: skip

_GRADIENT = "the metric, or the one in its place, has a gradient"

ATTRIBUTION = Table(
    "attribution", "behaviors/NAME/attribution.parquet", "one row a latent, by latent; where a shift is established",
    (
        Column("latent", pa.int64(), "The latent.", "from 0", ""),
        Column("rank", pa.int64(), "Place in the ranking by attribution on the prompts it was found with.", "from 0",
               "it does not push the way of the shift"),
        Column("norm", _f32, "Norm of what it changes of the activations, over all tokens of the held-out prompts.", "units of activations", ""),
        Column("firings", pa.int64(), "Tokens of the held-out prompts on which it fires.", "tokens", ""),
        Column("attribution_find", _f64, "Attribution on the prompts that latents are found with.", "unit of the metric", "", _GRADIENT),
        Column("share_find", _f64, "The same as a share of the shift.", "a share", "", _GRADIENT),
        Column("attribution_held_out", _f64, "Attribution on held-out prompts.", "unit of the metric", "", _GRADIENT),
        Column("share_held_out", _f64, "The same as a share of the shift.", "a share", "", _GRADIENT),
        Column("share_held_out_low", _f64, "Lower bound of share_held_out; resamples prompts.", "a share", "cannot be estimated", _GRADIENT),
        Column("share_held_out_high", _f64, "Upper bound of share_held_out.", "a share", "cannot be estimated", _GRADIENT),
        Column("attribution_reference", _f64, "What it does of the reference's own behavior, on held-out prompts.", "unit of the metric", "",
               "the models share no space"),
        Column("attribution_intervened", _f64, "What it does of the intervened model's own behavior.", "unit of the metric", "",
               "the models share no space"),
        Column("evidence", _text, "What may be said of it for this behavior.", "observed, associated, causal", ""),
    ),
)  # fmt: skip

PROMPTS = Table(
    "prompts", "behaviors/NAME/prompts.parquet", "one row a held-out prompt",
    (
        Column("prompt", _text, "The prompt.", "text, not escaped", ""),
        Column("reference", _f64, "The metric in the reference.", "unit of the metric", ""),
        Column("intervened", _f64, "The metric in the intervened model.", "unit of the metric", ""),
        Column("reference_answer", _text, "The first answer of the reference.", "text, not escaped", "", "the metric is of answers"),
        Column("intervened_answer", _text, "The first answer of the intervened model.", "text, not escaped", "", "the metric is of answers"),
    ),
)  # fmt: skip

TOKENS = Table(
    "tokens", "behaviors/NAME/tokens.parquet",
    "one row a firing of a named latent on a held-out prompt; where there is a gradient and the models share a space",
    (
        Column("prompt", pa.int64(), "The prompt.", "row of prompts.parquet", ""),
        Column("row", pa.int64(), "The text that was read: a prompt, or a prompt with one of its continuations.", "from 0", ""),
        Column("position", pa.int64(), "Position in it.", "from 0", ""),
        Column("token_id", pa.int64(), "The token there.", "id", ""),
        Column("latent", pa.int64(), "The latent that fires.", "from 0", ""),
        Column("weight", _f32, "Its weight there: how much of its direction the change of the activations holds.", "latent value", ""),
        Column("value", _f32, "Its attribution there; a prompt's sum over tokens, averaged over prompts, is attribution_held_out.", "unit of the metric", ""),
        Column("token", _text, "The token as text.", "text, not escaped", ""),
    ),
)  # fmt: skip

NEIGHBORS_KEPT = 5
"""Neighbors of each latent."""

NEIGHBORS = Table(
    "neighbors", "analysis/neighbors.parquet", "one row a latent and neighbor, by latent, the nearest first; of latents that fire",
    (
        Column("latent", pa.int32(), "Number of the latent.", "from 0", ""),
        Column("rank", pa.int32(), "Place among its neighbors.", "0: the nearest", ""),
        Column("neighbor", pa.int32(), "Number of the neighbor.", "from 0", ""),
        Column("cosine", _f64, "Between their decoder rows, all models end to end, training space.", "-1 to 1", ""),
    ),
)  # fmt: skip

_NO_RULE = "there is no rule"
_NOT_SCORED = "not asked, or too few verdicts count"


def _scores(names: Mapping[str, str], null: str) -> tuple[Column, ...]:
    return tuple(
        column
        for name, what in names.items()
        for column in (
            Column(name, _f64, f"{what}.", "0.5: chance; 1: exactly", null),
            *_interval(name, name, "0 to 1", null, _f64),
        )
    )


RULES = Table(
    "rules", "analysis/rules.parquet", "one row a latent that a rule was looked for, by latent",
    (
        Column("latent", pa.int32(), "Number of the latent.", "from 0", ""),
        Column("reason", _text, "Why there is no rule.", "a sentence", "there is one"),
        Column("family", _text, "What the rule looks at.", "token, previous_token, pair, source, place", _NO_RULE),
        Column("items", pa.list_(_text), "The rule is met where one of these is.", "text, not escaped", _NO_RULE),
        Column("negated", pa.bool_(), "Whether it fires where none of them is met.", "true, false", _NO_RULE),
        Column("text", _text, "The rule as it is read.", "text, not escaped", _NO_RULE),
        Column("bits_saved", _f64, "By describing the firings with the rule rather than by their number alone.", "bits", _NO_RULE),
        *_scores(
            {"auroc": "AUROC of the rule for whether it fires, on documents that the rule was not found on",
             "activation_auroc": "AUROC of its activation for whether the rule is met, on the same tokens"},
            _NO_RULE,
        ),
        Column("n_firings", pa.int64(), "SparseLatents in the half of the documents that it is scored on.", "tokens", ""),
        Column("n_documents", pa.int64(), "Documents with a firing, of that half.", "documents", ""),
        Column("n_tokens", pa.int64(), "Tokens of that half.", "tokens", ""),
        Column("n_firings_found_on", pa.int64(), "SparseLatents in the half that it is found on.", "tokens", ""),
        Column("n_documents_found_on", pa.int64(), "Documents with a firing, of that half.", "documents", ""),
    ),
)  # fmt: skip


def _verdicts(names: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(
        column
        for name, what in names.items()
        for column in (
            Column(name, _f64, f"{what}: balanced accuracy.", "0.5: chance; 1: always right", _NOT_SCORED),
            *_interval(name, name, "0 to 1", _NOT_SCORED, _f64),
            Column(f"{name}_n", pa.int32(), "Verdicts that count.", "verdicts", "not asked"),
            Column(f"{name}_unparsed", pa.int32(), "Replies that are no verdict.", "replies", "not asked"),
        )
    )


WRITTEN = Table(
    "explanations", "explanations/explanations.parquet", "one row a latent, author and judge, by latent",
    (
        Column("latent", pa.int32(), "Number of the latent.", "from 0", ""),
        Column("text", _text, "What the author wrote.", "text, not escaped", "there is no explanation"),
        Column("reason", _text, "Why there is no explanation, or no score.", "a sentence", "there are both"),
        Column("author", _text, "The model that wrote it.", "a name", ""),
        Column("judge", _text, "The model that was asked.", "a name", "none was"),
        Column("method", _text, "From what it was written.", "a name", ""),
        Column("prompt_digest", _text, "The author's prompt, by its `key` in replies.jsonl.", "a digest", "nothing was asked"),
        Column("n_shown", pa.int32(), "Excerpts that the author saw in which it fires.", "excerpts", "nothing was asked"),
        Column("n_shown_silent", pa.int32(), "Excerpts that the author saw in which it does not.", "excerpts", "nothing was asked"),
        Column("control_latent", pa.int32(), "The latent whose explanation the controls were given.", "from 0", "there is no other"),
        *_verdicts(
            {"detection": "Which excerpts it fires in, by the explanation", "fuzzing": "Whether the marked tokens are those it fires on",
             "detection_control": "Detection with another latent's explanation", "fuzzing_control": "Fuzzing with another latent's explanation"},
        ),
        Column("detection_rule", _f64, "Detection by the latent's rule, with no judge.", "0.5: chance; 1: always right",
               "there is no rule, or nothing was scored"),
        Column("prompt_tokens", pa.int64(), "Tokens of all prompts of the row, those kept from before included.", "tokens", "nothing was asked"),
        Column("reply_tokens", pa.int64(), "Tokens of all replies of the row.", "tokens", "nothing was asked"),
    ),
)  # fmt: skip

TABLES = (
    FEATURES,
    EXAMPLES,
    LOGITS,
    HISTOGRAMS,
    NEIGHBORS,
    RULES,
    TRAJECTORIES,
    ATTRIBUTION,
    PROMPTS,
    TOKENS,
    WRITTEN,
)
"""Every table of a run, in the order in which a run makes them."""
