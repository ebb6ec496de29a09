// Requests to the server that served the page, one at a time.

const token = new URLSearchParams(location.search).get("token") ?? "";

// A request that failed; the message is the server's.
class RequestError extends Error {}

async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`/live/${path}?token=${encodeURIComponent(token)}`, body === undefined ? {} : post).catch(() => {
    throw new RequestError("The server does not respond. Check that crosscoder browse --serve --live is still running.");
  });
  const found = await answer.json().catch(() => {
    throw new RequestError(`The server's response could not be read (status ${answer.status}).`);
  });
  if (!answer.ok) throw new RequestError(visibleText(String(found.error)));
  return found;
}

function showError(text) {
  const notice = document.getElementById("notice");
  notice.hidden = !text;
  notice.textContent = text;
}

function announce(text) {
  document.getElementById("status").textContent = text;
}

const asking = { busy: false };

// Runs `work` with all submit buttons disabled, and shows the elapsed seconds on them.
async function whileAsking(what, work) {
  if (asking.busy) return;
  asking.busy = true;
  showError("");
  const buttons = [...document.querySelectorAll(".go")];
  for (const button of buttons) button.setAttribute("aria-disabled", "true");
  const began = Date.now();
  announce(`${what} …`);
  // Not in the status line: a screen reader would read every second aloud.
  const clock = setInterval(() => {
    for (const button of buttons) button.dataset.seconds = Math.round((Date.now() - began) / 1000);
  }, 1000);
  try {
    await work();
    announce("");
  } catch (error) {
    announce("");
    if (!(error instanceof RequestError)) console.error(error);
    showError(error.message);
    document.getElementById("notice").scrollIntoView({ block: "nearest" });
  } finally {
    clearInterval(clock);
    asking.busy = false;
    for (const button of buttons) {
      button.removeAttribute("aria-disabled");
      delete button.dataset.seconds;
    }
  }
}
