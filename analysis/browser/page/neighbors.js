// The latents with the most similar decoder directions.

function neighborPanel(chunk, inside) {
  const { neighbors, neighbor_cosines: cosines } = chunk.arrays;
  if (!neighbors) return null;
  const perLatent = neighbors.length / chunk.header.evidence.length;
  const rows = [];
  for (let at = inside * perLatent; at < (inside + 1) * perLatent; at++) {
    if (neighbors[at] < 0) continue;
    rows.push(element("li", {}, [latentLink(neighbors[at]), labelName(labelOf(neighbors[at])), element("span", { class: "numeric", text: `cosine ${fixed(cosines[at])}` })]));
  }
  if (!rows.length) return null;
  const note = "By cosine of the decoder directions, concatenated over the models. Similar latents may be parts of one feature.";
  return panel("Nearest latents", [element("ul", { class: "neighbors" }, rows), element("p", { class: "caption", text: note })], "nearest");
}
