// What each column is called, what it means, and how it is written.

const COLUMNS = {
  latent: { title: "latent", width: "58px", format: whole, about: "Number of the latent in the dictionary." },
  label: { title: "label", width: "116px", about: "What the rule makes of the latent; its page says why." },
  decision: { title: "decision", width: "56px", about: "What you decided of it: starred ★, rejected ✕, with your label; ✎ where there is a note." },
  evidence: { title: "evidence", width: "84px", about: "What is known of it: observed in activations, associated with the shift of a behavior on held-out prompts, or a cause of it there." },
  relative_norm: {
    title: "relative norm",
    width: "118px",
    format: (value) => fixed(value, 3),
    about: "‖d intervened‖ / (‖d reference‖ + ‖d intervened‖), training space. 0: only in the reference; 0.5: equal; 1: only in the intervened model.",
  },
  decoder_cosine: { title: "cosine", width: "62px", format: fixed, about: "Cosine between the latent's directions in the two models." },
  nu_error: {
    title: "ν error",
    width: "62px",
    format: fixed,
    about: "Latent scaling on what the dictionary leaves over: how much of this latent hides in the other model's error. 0: nothing; 1: as much as on its own side.",
  },
  nu_reconstruction: {
    title: "ν reconstr.",
    width: "80px",
    format: fixed,
    about: "Latent scaling on the reconstruction: how much of this latent other latents write into the other model. 0: nothing; 1: as much as on its own side.",
  },
  density: { title: "density", width: "72px", format: percent, about: "Share of held-out tokens on which the latent fires." },
  template_share: { title: "on template", width: "88px", format: percent, about: "Share of its firings that are on chat-template tokens." },
  rule_auroc: { title: "rule AUROC", width: "78px", format: fixed, about: "How well a short rule tells, on documents that it was not learnt on, where the latent fires. 0.5: chance; 1: exactly." },
  max_activation: { title: "max", width: "66px", format: significant, about: "Largest latent value on held-out tokens." },
  shift_share: {
    title: "shift share",
    width: "100px",
    format: percent,
    about: "Share of the squared activation difference between the two models that the latent explains. Negative: it points the wrong way.",
  },
  unmapped_share: {
    title: "unmapped share",
    width: "104px",
    format: percent,
    about: "Of models that share no space: share of what the linear map from the other model does not carry into the model that the latent leans to, that it explains.",
  },
  effect: { title: "effect", width: "66px", format: significant, about: "The shift that it explains on a token where it fires, in units of the shift of a token; both relative to the squared length of the token. What q-values weigh." },
  norm_reference: { title: "norm ref.", width: "84px", format: significant, about: "Decoder norm in the reference model, training space." },
  norm_intervened: { title: "norm int.", width: "84px", format: significant, about: "Decoder norm in the intervened model, training space." },
  norm_reference_raw: { title: "raw norm ref.", width: "104px", format: significant, about: "Decoder norm in the reference model, in units of its activations." },
  norm_intervened_raw: { title: "raw norm int.", width: "104px", format: significant, about: "Decoder norm in the intervened model, in units of its activations." },
  relative_norm_raw: { title: "raw relative norm", width: "128px", format: (value) => fixed(value, 3), about: "Relative norm in units of the models' activations." },
  nu_error_new: { title: "ν error, new", width: "96px", format: fixed, about: "ν of the error, asking whether the latent is absent from the reference." },
  nu_error_lost: { title: "ν error, lost", width: "96px", format: fixed, about: "ν of the error, asking whether the latent is absent from the intervened model." },
  nu_reconstruction_new: { title: "ν rec., new", width: "96px", format: fixed, about: "ν of the reconstruction, asking whether the latent is absent from the reference." },
  nu_reconstruction_lost: { title: "ν rec., lost", width: "96px", format: fixed, about: "ν of the reconstruction, asking whether the latent is absent from the intervened model." },
  n_tokens: { title: "tokens", width: "76px", format: whole, about: "Held-out tokens on which it fires." },
  n_documents: { title: "documents", width: "90px", format: whole, about: "Held-out documents in which it fires." },
  mean_activation: { title: "mean", width: "66px", format: significant, about: "Mean latent value where it fires." },
  q_value: { title: "q", width: "68px", format: errorRate, about: "Expected share of false labels among like claims at least this strong." },
  seed_stability: { title: "seeds", width: "58px", format: fixed, about: "Share of the other seeds' dictionaries in which the latent is found again (cosine of its decoder rows above 0.7)." },
  difference_cosine: { title: "diff-SAE", width: "62px", format: fixed, about: "Largest cosine of the latent's change of direction with a direction of the diff-SAE." },
  difference_latent: { title: "diff-SAE latent", width: "104px", format: whole, about: "The latent of the diff-SAE whose direction that is." },
  onset: { title: "onset", width: "96px", format: (value) => checkpointName(value), about: "Checkpoint at which its change began." },
  twin: { title: "twin", width: "64px", format: whole, about: "Nearest latent on the other side." },
  twin_cosine: { title: "twin cosine", width: "92px", format: fixed, about: "Cosine to the nearest latent on the other side." },
};

const STANDARD = ["latent", "label", "decision", "evidence", "relative_norm", "decoder_cosine", "nu_error", "nu_reconstruction", "q_value", "seed_stability", "difference_cosine", "density", "template_share", "rule_auroc", "shift_share", "peaks", "points"];
const GISTS = {
  peaks: { title: "peaks on", width: "minmax(96px, 1fr)", text: true, about: "Tokens at which its strongest examples peak." },
  points: {
    title: "points at",
    width: "minmax(96px, 1fr)",
    text: true,
    about: "Logit lens: tokens its direction points at, in the model that has it; where both have it, what differs between the two directions.",
  },
};

const isGist = (name) => Object.hasOwn(GISTS, name);

const measuredColumns = new Map();

// Whether a column holds any number.
function measured(name) {
  const column = data.columns[name];
  if (!measuredColumns.has(name)) measuredColumns.set(name, Boolean(column?.some((_, latent) => !isAbsent(column, latent))));
  return measuredColumns.get(name);
}

// The columns shown at first: those of the standard ones that hold a number.
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
  rotated: "in both, in different directions",
  rescaled: "in both, same direction, different size",
  reweighted: "in both, but fires at a different rate",
  shared: "the same in both",
  undetermined: "too little evidence, or measures disagree",
  dead: "fired on no held-out token",
};

// What a column's name starts with that holds the share of a behavior's shift that is attributed to each latent.
const ATTRIBUTED = "attributed/";

const LEVELS_EXPLAINED = {
  observed: "seen in activations; that it has to do with a behavior is not shown",
  associated: "goes with the shift of a behavior on held-out prompts",
  causal: "a part of the shift goes with it when it alone is taken out or put in, and random latents do not reach that",
};

function columnOf(name) {
  if (isGist(name)) return GISTS[name];
  if (COLUMNS[name]) return COLUMNS[name];
  if (name.startsWith(ATTRIBUTED)) {
    const behavior = visibleText(name.slice(ATTRIBUTED.length));
    return { title: `${behavior} share`, width: "124px", format: percent, about: `Share of the shift of ${behavior} that is attributed to the latent, on held-out prompts.` };
  }
  const [, of, bound] = /^(.+)_(low|high)$/.exec(name) ?? [];
  if (COLUMNS[of]) {
    const about = `${bound === "low" ? "Lower" : "Upper"} bound of its interval, which resamples whole documents. ${COLUMNS[of].about}`;
    return { title: `${COLUMNS[of].title}, ${bound}`, width: "112px", format: COLUMNS[of].format, about };
  }
  const shown = name.replaceAll("_", " ").replace("/", ", ");
  const share = name.startsWith("density") || name.endsWith("share");
  return { title: shown, width: "104px", format: share ? percent : significant, about: `Column ${name} of features.parquet.` };
}

// Every numeric column that holds at least one number, the documented ones first. Bounds of intervals come last.
function numericColumns() {
  const known = Object.keys(COLUMNS).filter((name) => !data.categories[name] && data.columns[name]);
  const bound = (name) => /_(low|high)$/.test(name);
  const others = Object.keys(data.columns).filter((name) => !COLUMNS[name]);
  const ordered = known.concat(others.filter((name) => !bound(name)), others.filter(bound));
  return ordered.filter(measured);
}
