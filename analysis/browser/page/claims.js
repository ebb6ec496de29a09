// The report's summary and its claims about latents, each claim with a link to its latent.

function inShort() {
  return element("section", { class: "in-short", "aria-labelledby": "in-short" }, [
    element("h2", { id: "in-short", text: "In short" }),
    element("ul", {}, data.header.in_short.filter(({ about }) => about === "activations").map(shortItem)),
  ]);
}

// The findings and the notice that nothing is labeled stand above, so the list does not repeat them. A finding names the checks that it rests on; what is not established is set apart.
function shortItem({ kind, text, rests_on: checks }) {
  const title = checks.length ? `rests on checks that passed: ${checks.map(visibleText).join(", ")}` : kind;
  return element("li", { class: kind.replace(" ", "-"), title }, sentenceNodes(text));
}

function claimsSection() {
  const groups = data.header.claims;
  if (!groups.length) return null;
  return element("section", { class: "claims", "aria-labelledby": "claims" }, [
    element("h3", { id: "claims", text: "Claims about latents" }),
    ...groups.map(claimGroup),
  ]);
}

function claimGroup({ title, total, statement, claims }) {
  const about = statement ? element("p", { class: "caption" }, sentenceNodes(statement)) : null;
  if (!claims.length) return element("div", { class: "claim-group" }, [element("h4", { text: title }), about]);
  const count = claims.length === total ? whole(total) : `${whole(claims.length)} of ${whole(total)}`;
  return element("details", { class: "claim-group" }, [
    element("summary", {}, [title, element("span", { class: "muted", text: ` ${count}` })]),
    about,
    element("ul", {}, claims.map(claimItem)),
  ]);
}

function claimItem({ latent, text, rule, doubt }) {
  return element("li", {}, [
    element("div", { class: "claim-of" }, [latentLink(latent), labelName(labelOf(latent)), evidenceOf(latent)]),
    element("p", {}, [...sentenceNodes(text), ...(rule ? [" ", ...sentenceNodes(rule)] : [])]),
    doubt ? element("p", { class: "muted", text: doubt }) : null,
  ]);
}

function evidenceOf(latent) {
  const level = data.categories.evidence ? categoryOf("evidence", latent) : "observed";
  return element("small", { class: "muted", text: level, title: LEVELS_EXPLAINED[level] });
}
