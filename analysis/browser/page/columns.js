// Title, meaning and number format of each column.

const COLUMNS = {
  latent: { title: "latent", width: "58px", format: whole, about: "Number of the latent in the dictionary, from 0." },
  label: { title: "label", width: "116px", about: "Label by the rule; the latent's page states the reason." },
  candidate: { title: "alone", width: "104px", about: "Label that this training alone would give: before q-values, and before the other trainings were asked whether they find the latent again." },
  decision: { title: "decision", width: "56px", about: "Your decision: starred ★ or rejected ✕, with your label; ✎ marks a note." },
  evidence: { title: "evidence", width: "84px", about: "Evidence level: observed in activations, associated with the shift of a behavior on held-out prompts, or causal for part of it there." },
  relative_norm: {
    title: "relative norm",
    width: "118px",
    format: (value) => fixed(value, 3),
    about: "‖d intervened‖ / (‖d reference‖ + ‖d intervened‖), in normalized (training) units. 0: only in the reference; 0.5: equal; 1: only in the intervened model.",
  },
  decoder_cosine: { title: "cosine", width: "62px", format: fixed, about: "Cosine of the latent's decoder directions in the two models." },
  nu_error: {
    title: "ν error",
    width: "62px",
    format: fixed,
    about: "Latent scaling on the reconstruction error: how much of this latent remains in the other model's error. 0: nothing; 1: as much as on its own side.",
  },
  nu_reconstruction: {
    title: "ν reconstr.",
    width: "80px",
    format: fixed,
    about: "Latent scaling on the reconstruction: how much of this latent the other latents write into the other model. 0: nothing; 1: as much as on its own side.",
  },
  density: { title: "density", width: "72px", format: percent, about: "Share of held-out tokens on which the latent fires." },
  template_share: { title: "on template", width: "88px", format: percent, about: "Share of its firings that fall on chat-template tokens." },
  rule_auroc: { title: "rule AUROC", width: "78px", format: fixed, about: "How well a short rule predicts where the latent fires, on documents that it was not fitted on. 0.5: chance; 1: perfectly." },
  max_activation: { title: "max", width: "66px", format: significant, about: "Largest latent value on held-out tokens." },
  shift_share: {
    title: "shift share",
    width: "100px",
    format: percent,
    about: "Share of the squared activation difference between the two models that the latent explains. Negative: it points in the opposite direction.",
  },
  unmapped_share: {
    title: "unmapped share",
    width: "104px",
    format: percent,
    about: "For models that share no space: how much the latent explains of the activations that the linear map from the other model does not predict, as a share, in the model that the latent leans to.",
  },
  effect: { title: "effect", width: "66px", format: significant, about: "Shift that the latent explains on a token where it fires, in units of the mean shift per token; both relative to the squared norm of the token's activations. q-values weigh latents by it." },
  norm_reference: { title: "norm ref.", width: "84px", format: significant, about: "Decoder norm in the reference model, in normalized (training) units." },
  norm_intervened: { title: "norm int.", width: "84px", format: significant, about: "Decoder norm in the intervened model, in normalized (training) units." },
  norm_reference_raw: { title: "raw norm ref.", width: "104px", format: significant, about: "Decoder norm in the reference model, in units of its activations." },
  norm_intervened_raw: { title: "raw norm int.", width: "104px", format: significant, about: "Decoder norm in the intervened model, in units of its activations." },
  relative_norm_raw: { title: "raw relative norm", width: "128px", format: (value) => fixed(value, 3), about: "Relative norm in units of the models' activations." },
  nu_error_new: { title: "ν error, new", width: "96px", format: fixed, about: "ν of the error as a test of absence from the reference." },
  nu_error_lost: { title: "ν error, lost", width: "96px", format: fixed, about: "ν of the error as a test of absence from the intervened model." },
  nu_reconstruction_new: { title: "ν rec., new", width: "96px", format: fixed, about: "ν of the reconstruction as a test of absence from the reference." },
  nu_reconstruction_lost: { title: "ν rec., lost", width: "96px", format: fixed, about: "ν of the reconstruction as a test of absence from the intervened model." },
  n_tokens: { title: "tokens", width: "76px", format: whole, about: "Number of held-out tokens on which it fires." },
  n_documents: { title: "documents", width: "90px", format: whole, about: "Number of held-out documents in which it fires." },
  mean_activation: { title: "mean", width: "66px", format: significant, about: "Mean latent value on tokens where it fires." },
  nu_unselected: { title: "ν unselected", width: "92px", format: fixed, about: "Latent scaling on the tokens that the model with the larger norm alone chooses: how much of the direction the other model holds there. The latent's own firings are chosen by both models." },
  partner_jaccard: { title: "partner", width: "70px", format: fixed, about: "Largest overlap (Jaccard index) of its firings with those of a latent that only the other model has. Near 1: one direction may have replaced the other." },
  q_value: { title: "q", width: "68px", format: errorRate, about: "The larger of a false-discovery rate of sampling noise, and the fraction of false labels expected under the null pairs tried, among claims of the same kind (new, lost and replaced together) that are at least this strong." },
  seed_stability: { title: "seeds", width: "58px", format: fixed, about: "Share of the other trainings (another seed, half of the training documents) that find the latent again: the same direction in every model that it writes into." },
  label_stability: { title: "same label", width: "82px", format: fixed, about: "Share of the other trainings in which such a latent has the same label. A label that claims a change needs all of them." },
  difference_cosine: { title: "diff-SAE", width: "62px", format: fixed, about: "Largest cosine of the latent's change of direction with a decoder direction of the diff-SAE." },
  difference_latent: { title: "diff-SAE latent", width: "104px", format: whole, about: "The diff-SAE latent with that direction." },
  onset: { title: "onset", width: "96px", format: (value) => checkpointName(value), about: "Checkpoint at which the latent's change began." },
  twin: { title: "twin", width: "64px", format: whole, about: "The other latent that writes a direction most similar to this latent's into the other model." },
  twin_cosine: { title: "twin cosine", width: "92px", format: fixed, about: "Cosine to the twin." },
};

const STANDARD = ["latent", "label", "decision", "evidence", "relative_norm", "decoder_cosine", "nu_error", "nu_reconstruction", "nu_unselected", "q_value", "seed_stability", "label_stability", "difference_cosine", "density", "template_share", "rule_auroc", "shift_share", "peaks", "points"];
const GISTS = {
  peaks: { title: "peaks on", width: "minmax(96px, 1fr)", text: true, about: "Peak tokens of its strongest examples." },
  points: {
    title: "points at",
    width: "minmax(96px, 1fr)",
    text: true,
    about: "Logit lens: tokens with the largest logits along its direction, in the model that has it; if both have it, along the difference of the two directions, or where that does not read as tokens along the intervened model's. Empty if its lists are no better than those of random directions.",
  },
};

const isGist = (name) => Object.hasOwn(GISTS, name);

const measuredColumns = new Map();

// Whether a column contains any number.
function measured(name) {
  const column = data.columns[name];
  if (!measuredColumns.has(name)) measuredColumns.set(name, Boolean(column?.some((_, latent) => !isAbsent(column, latent))));
  return measuredColumns.get(name);
}

// The columns shown by default: the standard columns that contain a number.
function standardColumns() {
  const byModel = ["density_reference", "density_intervened"].filter(measured);
  return STANDARD.flatMap((name) => {
    if (name === "density") return [name, ...byModel];
    return data.categories[name] || isGist(name) || measured(name) ? [name] : [];
  });
}

const NARROW = ["latent", "label", "relative_norm", "shift_share"];

const LABELS_EXPLAINED = {
  new: "only in the intervened model",
  lost: "only in the reference",
  replaced: "one direction gave way to another on the same tokens",
  rotated: "in both, in different directions",
  rescaled: "in both, same direction, different norm",
  reweighted: "in both, but fires at a different rate",
  shared: "the same in both, as far as this dictionary sees",
  undetermined: "too little evidence, or the measures disagree",
  dead: "fired on no held-out token",
};

// What a label means; of shared, with how much of the difference the dictionary explains.
const labelExplained = (label) => (label === "shared" && data.header.shared ? data.header.shared.flat().join("") : LABELS_EXPLAINED[label]);

// Prefix of the columns with each latent's attributed share of a behavior's shift.
const ATTRIBUTED = "attributed/";

const LEVELS_EXPLAINED = {
  observed: "seen in activations; no link to a behavior is shown",
  associated: "carries an attributed share of a behavior's shift on held-out prompts",
  causal: "removing it undoes part of the shift, or adding it produces part, more than random latents do, corrected for the number of checks",
};

function columnOf(name) {
  if (isGist(name)) return GISTS[name];
  if (COLUMNS[name]) return COLUMNS[name];
  if (name.startsWith(ATTRIBUTED)) {
    const behavior = visibleText(name.slice(ATTRIBUTED.length));
    return { title: `${behavior} share`, width: "124px", format: percent, about: `Share of the shift of ${behavior} that is attributed to the latent on held-out prompts.` };
  }
  const [, of, bound] = /^(.+)_(low|high)$/.exec(name) ?? [];
  if (COLUMNS[of]) {
    const about = `${bound === "low" ? "Lower" : "Upper"} bound of the interval, which resamples whole documents. ${COLUMNS[of].about}`;
    return { title: `${COLUMNS[of].title}, ${bound}`, width: "112px", format: COLUMNS[of].format, about };
  }
  const shown = name.replaceAll("_", " ").replace("/", ", ");
  const share = name.startsWith("density") || name.endsWith("share");
  return { title: shown, width: "104px", format: share ? percent : significant, about: `Column ${name} of features.parquet.` };
}

// Numeric columns that contain a number: documented ones first, bounds of intervals last.
function numericColumns() {
  const known = Object.keys(COLUMNS).filter((name) => !data.categories[name] && data.columns[name]);
  const bound = (name) => /_(low|high)$/.test(name);
  const others = Object.keys(data.columns).filter((name) => !COLUMNS[name]);
  const ordered = known.concat(others.filter((name) => !bound(name)), others.filter(bound));
  return ordered.filter(measured);
}
