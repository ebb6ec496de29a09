// The latents whose directions lie nearest to this one's.

function neighborPanel(chunk, inside) {
  const { neighbors, neighbor_cosines: cosines } = chunk.arrays;
  if (!neighbors) return null;
  const kept = neighbors.length / chunk.header.evidence.length;
  const rows = [];
  for (let at = inside * kept; at < (inside + 1) * kept; at++) {
    if (neighbors[at] < 0) continue;
    rows.push(element("li", {}, [latentLink(neighbors[at]), labelName(labelOf(neighbors[at])), element("span", { class: "numeric", text: `cosine ${fixed(cosines[at])}` })]));
  }
  if (!rows.length) return null;
  const note = "By their decoder directions, those of all models end to end. Near ones may be parts of one feature.";
  return panel("Nearest latents", [element("ul", { class: "neighbors" }, rows), element("p", { class: "caption", text: note })], "nearest");
}
