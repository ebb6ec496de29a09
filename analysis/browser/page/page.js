// Ties the pieces together: reads the state from the address, shows the overview or a latent, listens to keys.

let overviewScroll = 0;

async function render() {
  const before = state.latent;
  readState(location.hash);
  const overview = document.getElementById("overview");
  const latent = document.getElementById("latent");
  if (!table.body) renderOverview();
  if (before === null && state.latent !== null) overviewScroll = scrollY;
  overview.hidden = state.latent !== null;
  latent.hidden = state.latent === null;
  renderTable();
  if (state.latent === null) {
    delete latent.dataset.latent;
    if (before !== null) scrollTo(0, overviewScroll);
  } else {
    await renderLatent(state.latent);
    if (before !== state.latent) scrollTo(0, 0);
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const index = table.rows.indexOf(state.latent);
  if (event.key === "j" || event.key === "k") {
    const next = state.latent === null ? table.rows[0] : table.rows[index + (event.key === "j" ? 1 : -1)];
    if (next !== undefined && (index >= 0 || state.latent === null)) go({ latent: next });
  } else if (event.key === "Escape" && state.latent !== null) {
    go({ latent: null });
  } else if (event.key === "Escape") {
    endBrush();
  } else if (event.key === "/") {
    event.preventDefault();
    if (state.latent !== null) go({ latent: null });
    setTimeout(() => document.getElementById("query").focus());
  }
}

function fail(error) {
  const notice = document.getElementById("notice");
  notice.hidden = false;
  notice.textContent = `The page could not be shown: ${error.message ?? error}. The same findings are in report.html.`;
  console.error(error);
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    fail(new Error("this browser cannot unpack gzip; any browser from 2023 on can"));
    return;
  }
  await loadOverview();
  data.standard = standardColumns();
  data.hasNorms = measured("relative_norm");
  renderMasthead();
  const keys = "Keys: j and k next and previous latent, Escape back to the table or out of the scatter's selection, / search, arrow keys through the table and through the tokens of an example.";
  const holds = data.header.files ? `This page and the folder ${data.header.files.folder} beside it hold all the data and ask` : "This file holds all its data and asks";
  document.getElementById("footer").replaceChildren(element("p", { text: `${keys} ${holds} no server for anything.` }));
  await render();
  addEventListener("hashchange", () => render().catch(fail));
  addEventListener("keydown", onKey);
  document.documentElement.dataset.ready = "true";
  performance.mark("ready");
}

start().catch(fail);
