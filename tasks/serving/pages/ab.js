import { $, consent, element, events, rater, request, sendOnEnter, showConsent, showProblem, toldOf, useKey } from "./talk.js";

const composer = $("#composer"), message = $("#message"), stop = $("#stop"), send = $("#send"), again = $("#again"), told = $("#told");
const sides = { left: $("#left"), right: $("#right") };
const NAMES = { left: "A", right: "B" }; // on a phone they stand below each other
const buttons = [...document.querySelectorAll("[data-vote]")];
let running = null;
let pair = "";

function begin(turns = []) {
  showProblem(null);
  pair = "";
  told.textContent = "";
  $("#text").value = "";
  $("#comparison").hidden = false;
  $("#question").replaceChildren(
    ...turns.map((one) =>
      element("div", { className: `turn ${one.role}` }, element("p", { className: "who", textContent: one.role === "user" ? "Question" : one.role }), element("p", { className: "said", textContent: one.content })),
    ),
  );
  for (const [name, side] of Object.entries(sides)) {
    side.classList.remove("chosen", "writing");
    $("h2", side).textContent = `Answer ${NAMES[name]}`;
    $(".said", side).textContent = "";
  }
  for (const button of buttons) button.setAttribute("aria-pressed", "false");
  mayVote(false);
}

function mayVote(yes) {
  for (const button of buttons) button.disabled = !yes;
}

async function ask(text) {
  const turns = [{ role: "user", content: text }];
  begin();
  running = new AbortController();
  setRunning(true);
  let asked = "", ready = false;
  try {
    const answer = await request("/ab/answer", { rater: rater(), messages: turns }, running.signal);
    for (const side of Object.values(sides)) side.classList.add("writing");
    for await (const said of events(answer)) {
      if (said.pair) asked = said.pair;
      if (said.text) $(".said", sides[said.side]).append(said.text);
      if (said.ended) sides[said.side].classList.remove("writing");
      ready = ready || Boolean(said.ready);
    }
  } catch (error) {
    if (error.name === "AbortError") told.textContent = "Stopped: half an answer is not judged. Ask again.";
    else {
      showProblem(error);
      $("#comparison").hidden = true;
    }
  }
  for (const side of Object.values(sides)) side.classList.remove("writing");
  setRunning(false);
  running = null;
  if (!ready) return;
  pair = asked;
  mayVote(true);
  told.textContent = "Which is better?";
}

function setRunning(yes) {
  stop.hidden = !yes;
  send.disabled = again.disabled = yes;
  for (const side of Object.values(sides)) side.setAttribute("aria-busy", String(yes));
}

async function judgeAgain() {
  try {
    const found = await (await request("/ab/again", { rater: rater() })).json();
    begin(found.messages);
    for (const [name, side] of Object.entries(sides)) $(".said", side).textContent = found[name];
    pair = found.pair;
    mayVote(true);
    told.textContent = "Which is better?";
  } catch (error) {
    showProblem(error);
  }
}

async function vote(said) {
  if (!pair) return;
  mayVote(false);
  try {
    const done = await (await request("/ab/vote", { rater: rater(), pair, vote: said, text: $("#text").value, consent: consent() })).json();
    pair = "";
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.vote === said));
    for (const [name, side] of Object.entries(sides)) {
      $("h2", side).replaceChildren(`Answer ${NAMES[name]}: `, element("strong", { textContent: done[name] }));
    }
    sides[said]?.classList.add("chosen");
    told.textContent = `${toldOf(done)} A was ${done.left}, B was ${done.right}.`;
    message.focus();
  } catch (error) {
    showProblem(error);
    mayVote(true);
  }
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (text && !running) ask(text);
});
sendOnEnter(message, composer);
stop.addEventListener("click", () => running?.abort());
again.addEventListener("click", judgeAgain);
for (const button of buttons) button.addEventListener("click", () => vote(button.dataset.vote));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  const isTyping = ["TEXTAREA", "INPUT"].includes(document.activeElement.tagName);
  const button = buttons[Number(event.key) - 1];
  if (button && !button.disabled && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) vote(button.dataset.vote);
});
useKey();
showConsent();
