// Starts the page: reads the state from the address, shows the overview or a latent, and moves the focus.

let overviewScroll = 0;

// The part of the address that the page shows or is loading; a latent appears once its pack is unpacked.
let followed = null;

// Updates the page to the address. Browsers fire hashchange only after events already queued, such as the next key press; on
// a slow machine that key would act on a page that is about to be replaced.
function follow() {
  if (location.hash === followed) return;
  followed = location.hash;
  render().catch(fail);
}

// `next`: id of the element to focus once it is shown; `back`: the element that was focused before a latent was opened.
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
    // So that it does not reappear while another latent loads.
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

// Returns the focus to the link that opened the latent, or to the row of the latent just closed.
function backToOverview(latent) {
  revealRow(latent);
  scrollTo(0, overviewScroll);
  if (focusing.back?.isConnected && !focusing.back.closest(".row")) focusing.back.focus({ preventScroll: true });
}

// The part after the # holds the state of the page, so the link must not change the address.
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function fail(error) {
  const notice = document.getElementById("notice");
  notice.hidden = false;
  notice.textContent = `The page could not be shown: ${error.message ?? error}. The same results are in report.html.`;
  console.error(error);
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    fail(new Error("this browser cannot decompress gzip; use a browser from 2023 or later"));
    return;
  }
  await loadOverview();
  openDecisions();
  readKeys();
  data.standard = standardColumns();
  data.hasNorms = measured("relative_norm");
  renderMasthead();
  const help = element("button", { type: "button", class: "link", text: "all shortcuts", onclick: openHelp });
  const offline = data.header.files ? `This page and the folder ${data.header.files.folder} next to it contain all the data; they contact no server.` : "This file contains all its data; it contacts no server.";
  const hint = `Keys: j and k step through the latents, s stars, x rejects, ? lists all shortcuts. ${offline} `;
  document.getElementById("footer").replaceChildren(element("p", {}, [hint, help]));
  document.getElementById("skip").addEventListener("click", skip);
  addEventListener("hashchange", follow);
  addEventListener("keydown", onKey);
  followed = location.hash;
  await render();
  document.documentElement.dataset.ready = "true";
  performance.mark("ready");
}

start().catch(fail);
