// What the page asks of the server that it came from, one thing at a time.

const token = new URLSearchParams(location.search).get("token") ?? "";

// Something that the server could not do, in its own words.
class AskError extends Error {}

async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`/live/${path}?token=${encodeURIComponent(token)}`, body === undefined ? {} : post).catch(() => {
    throw new AskError("The server does not answer. It runs as long as crosscoder browse --serve --live does.");
  });
  const found = await answer.json().catch(() => {
    throw new AskError(`The server's answer could not be read (status ${answer.status}).`);
  });
  if (!answer.ok) throw new AskError(visibleText(String(found.error)));
  return found;
}

function complain(text) {
  const notice = document.getElementById("notice");
  notice.hidden = !text;
  notice.textContent = text;
}

function tell(text) {
  document.getElementById("status").textContent = text;
}

const asking = { busy: false };

// Runs `work` with every button that asks switched off, and says meanwhile how long it has taken.
async function whileAsking(what, work) {
  if (asking.busy) return;
  asking.busy = true;
  complain("");
  const buttons = [...document.querySelectorAll(".go")];
  for (const button of buttons) button.setAttribute("aria-disabled", "true");
  const began = Date.now();
  tell(`${what} …`);
  // Seconds are for the eye: a screen reader would read each of them.
  const clock = setInterval(() => {
    for (const button of buttons) button.dataset.seconds = Math.round((Date.now() - began) / 1000);
  }, 1000);
  try {
    await work();
    tell("");
  } catch (error) {
    tell("");
    if (!(error instanceof AskError)) console.error(error);
    complain(error.message);
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
