// One question at a time: show it, time it, send the answer, show the next.
"use strict";

const RETRY_MS = 2000;
const TIMEOUT_MS = 10000;
// No one reads a question sooner: a key that comes before was meant for the last one.
const UNREAD_MS = 250;

// Labels of a pair are the share of the preference that goes to the completion shown first.
const KINDS = {
  pairwise: {
    asked: "Which completion is better?",
    answers: [
      { label: 1, text: "1 is better", keys: ["1", "ArrowLeft"] },
      { label: 0.5, text: "Equal", keys: ["0", "t", " "] },
      { label: 0, text: "2 is better", keys: ["2", "ArrowRight"] },
    ],
  },
  rating: {
    asked: "How good is the completion? 1 is very bad, 5 very good",
    answers: [1, 2, 3, 4, 5].map((n) => ({ label: n, text: String(n), keys: [String(n)] })),
  },
  binary: {
    asked: "Is the completion good?",
    answers: [
      { label: 0, text: "Bad", keys: ["b", "ArrowLeft"] },
      { label: 1, text: "Good", keys: ["g", "ArrowRight"] },
    ],
  },
};
const KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", " ": "space" };

const at = (id) => document.getElementById(id);
let question = null;
let shownAt = 0;
let sending = null; // what is on its way to the server

function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text; // never as HTML: models write tags too
  if (className) made.className = className;
  return made;
}

function say(id, text) {
  at(id).textContent = text;
  at(id).hidden = !text;
}

function show(state) {
  question = state.question;
  at("count").textContent = `${state.done} of ${state.total}`;
  at("annotator").textContent = state.annotator;
  at("bar").max = state.total;
  at("bar").value = state.done;
  at("completions").replaceChildren();
  at("answers").replaceChildren();
  at("main").hidden = at("foot").hidden = false;
  at("prompt").parentElement.hidden = at("skip").hidden = !question;
  at("undo").disabled = state.done === 0;
  if (question) showQuestion();
  else showThanks(state);
  window.scrollTo(0, 0);
  at("prompt").scrollTop = 0;
  at("asked").focus({ preventScroll: true });
  shownAt = performance.now();
}

function showQuestion() {
  const kind = KINDS[question.kind];
  at("asked").textContent = kind.asked;
  at("prompt").textContent = question.prompt;
  question.completions.forEach((text, place) => {
    const article = document.createElement("article");
    const name = question.completions.length > 1 ? `Completion ${place + 1}` : "Completion";
    const by = question.policies ? `, by ${question.policies[place]}` : "";
    const body = element("div", text, "text");
    body.dir = "auto";
    article.append(element("h2", name + by), body);
    at("completions").append(article);
  });
  for (const answer of kind.answers) {
    const button = element("button", answer.text + " ");
    button.type = "button";
    button.dataset.label = answer.label;
    if (answer.text !== answer.keys[0]) button.append(keyCap(answer.keys[0]));
    button.addEventListener("click", () => give(answer.label));
    at("answers").append(button);
  }
  // A prompt that scrolls must be reachable without a mouse.
  const scrolls = at("prompt").scrollHeight > at("prompt").clientHeight;
  at("prompt").tabIndex = scrolls ? 0 : -1;
}

function showThanks(state) {
  at("asked").textContent = "Thank you, that was the last one.";
  const place = state.where ? ` Your answers are stored in ${state.where}.` : "";
  at("completions").append(
    element("p", `All ${state.total} questions are decided.${place} You can close this page.`),
  );
}

function keyCap(key) {
  return element("kbd", KEY_NAMES[key] || key);
}

function give(label) {
  const waited = performance.now() - shownAt;
  if (!question || waited < UNREAD_MS) return;
  const button = at("answers").querySelector(`[data-label="${label}"]`);
  act("answer", { key: question.key, label, seconds: waited / 1000 }, button);
}

// Sends what was decided until the server has taken or refused it; nothing else is done meanwhile.
async function act(path, given, button) {
  if (sending) return;
  sending = path;
  say("notice", "");
  enable(false);
  if (button) button.classList.add("chosen");
  try {
    const reply = await untilReached(path, given);
    if (reply.ok) show(await reply.json());
    else await refused(reply, given);
  } catch (error) {
    say("trouble", `The server's reply cannot be read: ${error.message}. Reload the page.`);
  } finally {
    sending = null;
    enable(true);
    if (button) button.classList.remove("chosen");
  }
}

async function untilReached(path, given) {
  for (;;) {
    try {
      const reply = await request(path, given);
      if (reply.status < 500) {
        say("trouble", "");
        return reply;
      }
      unsaved(given, await reply.text());
    } catch {
      unsaved(given, "The server does not answer.");
    }
    // What the server has taken back without our hearing of it must not be taken back twice.
    if (path === "undo") [path, given] = ["next", undefined];
    await new Promise((resume) => setTimeout(resume, RETRY_MS));
  }
}

function request(path, given) {
  const options = { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" };
  if (given) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(given);
  }
  return fetch(path, options);
}

function unsaved(given, cause) {
  const what = given ? "Not saved yet: keep this page open, it goes on trying." : "Trying again.";
  say("trouble", `${cause} ${what}`);
}

async function refused(reply, given) {
  const cause = await reply.text();
  if (reply.status !== 409) {
    say("trouble", given ? `Not saved: ${cause}` : cause);
    return;
  }
  const next = await untilReached("next");
  if (!next.ok) {
    say("trouble", await next.text());
    return;
  }
  show(await next.json());
  say("notice", cause);
}

function enable(on) {
  for (const button of at("foot").querySelectorAll("button")) button.disabled = !on;
  if (on) at("undo").disabled = at("bar").value === 0;
}

function skip() {
  if (question) act("skip", { key: question.key }, at("skip"));
}

function undo() {
  if (at("bar").value > 0) act("undo", {}, at("undo"));
}

function help() {
  const answers = question ? KINDS[question.kind].answers : [];
  const rows = [
    ...answers.map(({ keys, text }) => [keys, text]),
    [["s"], "Skip"],
    [["u"], "Undo the last answer or skip"],
    [["?"], "These keys"],
  ];
  at("key-list").replaceChildren();
  for (const [keys, text] of rows) {
    const term = document.createElement("dt");
    term.append(...keys.map(keyCap));
    at("key-list").append(term, element("dd", text));
  }
  at("keys").showModal();
}

function press(event) {
  // A key held down must not answer one question after another.
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === " " && event.target.closest("button")) return; // the button's own
  const answers = question ? KINDS[question.kind].answers : [];
  const answer = answers.find(({ keys }) => keys.includes(key));
  const others = { s: skip, u: undo, "?": help };
  if (!answer && !Object.hasOwn(others, key)) return;
  event.preventDefault();
  if (answer) give(answer.label);
  else others[key]();
}

document.addEventListener("keydown", press);
at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", undo);
at("help").addEventListener("click", help);
at("close").addEventListener("click", () => at("keys").close());
window.addEventListener("beforeunload", (event) => {
  if (sending && sending !== "next") event.preventDefault();
});
window.addEventListener("pageshow", (event) => {
  // A page that comes back from the history is as old as when it was left.
  if (event.persisted && !sending) act("next");
});
act("next");
