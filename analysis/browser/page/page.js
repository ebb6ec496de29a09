// Ties the pieces together: reads the state from the address, shows the overview or a latent, and leads the focus along.

let overviewScroll = 0;

// The part of the address that the page shows, or is about to: a latent comes once its pack is unpacked.
let followed = null;

// Brings the page into line with the address. Browsers tell of a new one only after whatever waits already, such as the next
// key; on a slow machine that key would act on a page that is about to go.
function follow() {
  if (location.hash === followed) return;
  followed = location.hash;
  render().catch(fail);
}

// `next`: id of what gets the focus once it is shown; `back`: what had it in the overview before a latent was opened.
const focusing = { next: null, back: null };

function focusNext() {
  document.getElementById(focusing.next)?.focus();
  focusing.next = null;
}

async function render() {
  const before = state.latent;
  const first = !table.body;
  readState(location.hash);
  const overview = document.getElementById("overview");
  const latent = document.getElementById("latent");
  if (first) renderOverview();
  if (before === null && state.latent !== null) {
    overviewScroll = scrollY;
    focusing.back = document.activeElement;
  }
  overview.hidden = state.latent !== null;
  latent.hidden = state.latent === null;
  renderTable();
  if (state.latent === null) {
    // Not even while another one is loading is it shown again.
    latent.replaceChildren();
    delete latent.dataset.latent;
    if (before !== null) backToOverview(before);
  } else {
    const shown = state.latent;
    await renderLatent(shown);
    if (state.latent !== shown) return;
    if (before !== shown) {
      scrollTo(0, 0);
      if (!first && focusing.next === null) latent.querySelector(".latent-title")?.focus({ preventScroll: true });
    }
  }
  if (focusing.next !== null) focusNext();
}

// The focus goes back to the link that led to the latent, or to the row of the latent that was left.
function backToOverview(latent) {
  revealRow(latent);
  scrollTo(0, overviewScroll);
  if (focusing.back?.isConnected && !focusing.back.closest(".row")) focusing.back.focus({ preventScroll: true });
}

// The address holds the state of the page, so this link goes nowhere.
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
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
  openDecisions();
  readKeys();
  data.standard = standardColumns();
  data.hasNorms = measured("relative_norm");
  renderMasthead();
  const help = element("button", { type: "button", class: "link", text: "all keys", onclick: openHelp });
  const holds = data.header.files ? `This page and the folder ${data.header.files.folder} beside it hold all the data and ask` : "This file holds all its data and asks";
  const asks = `Keys: j and k step through the latents, s stars, x rejects, ? lists the others. ${holds} no server for anything. `;
  document.getElementById("footer").replaceChildren(element("p", {}, [asks, help]));
  document.getElementById("skip").addEventListener("click", skip);
  addEventListener("hashchange", follow);
  addEventListener("keydown", onKey);
  followed = location.hash;
  await render();
  document.documentElement.dataset.ready = "true";
  performance.mark("ready");
}

start().catch(fail);
