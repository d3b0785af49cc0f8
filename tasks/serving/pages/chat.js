import { $, Problem, consent, element, events, randomId, rater, request, sendOnEnter, showConsent, showProblem, toldOf, useKey } from "./talk.js";

const log = $("#log"), composer = $("#composer"), message = $("#message"), stop = $("#stop"), send = $("#send");
let turns = []; // {role, content, place: its element}
let running = null;

async function listModels() {
  try {
    const listed = await (await request("/v1/models")).json();
    const chosen = $("#model").value;
    $("#model").replaceChildren(...listed.data.map((one) => element("option", { value: one.id, textContent: one.id, selected: one.id === chosen })));
    showChosen();
    showProblem(null);
  } catch (error) {
    showProblem(error);
  }
}

function showChosen() {
  $("#chosen").textContent = $("#model").value ? `Model ${$("#model").value}` : "Model";
}

function conversation(before = turns.length) {
  const system = $("#system").value.trim();
  const said = turns.slice(0, before).map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...said] : said;
}

function addTurn(role, content, who) {
  const said = element("p", { className: "said", textContent: content });
  const place = element("article", { className: `turn ${role}` }, element("p", { className: "who", textContent: who }), said);
  log.append(place);
  const turn = { role, content, place, said };
  turns.push(turn);
  $("#empty").hidden = true;
  return turn;
}

async function ask(text) {
  showProblem(null);
  const model = $("#model").value;
  if (!model) await listModels();
  if (!$("#model").value) return;
  const question = addTurn("user", text, "You");
  addEditing(question);
  const asked = conversation();
  const answer = addTurn("assistant", "", $("#model").value);
  answer.asked = asked;
  answer.model = $("#model").value;
  await write(answer);
}

async function write(answer) {
  running = new AbortController();
  setRunning(true);
  answer.place.classList.add("writing");
  let stopped = false;
  try {
    const reply = await request("/v1/chat/completions", { model: answer.model, messages: answer.asked, stream: true }, running.signal);
    for await (const said of events(reply)) {
      answer.version = said.system_fingerprint || answer.version;
      const delta = said.choices?.[0]?.delta?.content;
      if (!delta) continue;
      answer.content += delta;
      answer.said.textContent = answer.content;
      keepInView();
    }
  } catch (error) {
    stopped = error.name === "AbortError";
    if (!stopped) showProblem(error instanceof Problem ? error : new Problem("The connection broke while the answer was written."));
  }
  answer.place.classList.remove("writing");
  setRunning(false);
  running = null;
  if (!answer.content && !stopped) takeBack(turns.length - 2);
  else addJudging(answer, stopped);
}

function keepInView() {
  const below = document.documentElement.scrollHeight - innerHeight - scrollY;
  if (below < 160) scrollTo(0, document.documentElement.scrollHeight);
}

function setRunning(yes) {
  log.setAttribute("aria-busy", String(yes)); // read out when it is whole, not word by word
  stop.hidden = !yes;
  send.disabled = yes;
}

// The question and all behind it go; the question comes back to be changed.
function takeBack(from) {
  const gone = turns.splice(from);
  for (const one of gone) one.place.remove();
  message.value = gone[0].content;
  $("#empty").hidden = turns.length > 0;
  message.focus();
}

function tool(label, act, icon = "") {
  const button = element("button", { type: "button", className: "plain" });
  if (icon) {
    button.append($("#thumb").content.cloneNode(true));
    if (icon === "down") button.firstElementChild.classList.add("down");
  }
  button.append(label);
  button.addEventListener("click", act);
  return button;
}

function addEditing(question) {
  const tools = element("div", { className: "tools" });
  tools.append(tool("Edit", () => { if (!running) takeBack(turns.indexOf(question)); }));
  question.place.append(tools);
}

function addJudging(answer, stopped) {
  const tools = element("div", { className: "tools" });
  const told = element("p", { className: "told", role: "status", textContent: stopped ? "Stopped: half an answer is not judged." : "" });
  const copy = tool("Copy", async () => { await copyText(answer.content); told.textContent = "Copied."; });
  answer.vote_id = randomId(); // changing one's mind replaces the vote
  if (stopped) tools.append(copy);
  else {
    const up = tool("Good", () => judge("up"), "up");
    const down = tool("Bad", () => judge("down"), "down");
    const judge = async (vote) => {
      if (!(await post(answer, { vote_id: answer.vote_id, vote }, told))) return;
      for (const [button, its] of [[up, "up"], [down, "down"]]) button.setAttribute("aria-pressed", String(its === vote));
      askFor(answer, "What is " + (vote === "up" ? "good" : "bad") + " about it? (optional)", "", "Send", told, (text) =>
        text.trim() ? post(answer, { vote_id: answer.vote_id, vote, text }, told) : true);
    };
    up.setAttribute("aria-pressed", "false");
    down.setAttribute("aria-pressed", "false");
    const correct = tool("Correct", () =>
      askFor(answer, "How the answer should have been", answer.content, "Keep the correction", told, async (text) => {
        if (text === answer.content) { told.textContent = "Nothing was changed."; return false; }
        answer.correction_id = answer.correction_id || randomId();
        return post(answer, { vote_id: answer.correction_id, vote: "corrected", correction: text }, told);
      }));
    tools.append(up, down, correct, copy);
  }
  answer.place.append(tools, told);
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = element("textarea", { value: text }); // pages over plain HTTP have no clipboard
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

function askFor(answer, label, value, verb, told, done) {
  $(".ask", answer.place)?.remove();
  const field = element("textarea", { value, rows: Math.min(12, 2 + value.length / 70), id: randomId() });
  const form = element("form", { className: "ask" }, element("label", { textContent: label, htmlFor: field.id }), field);
  if (!consent().training) form.append(element("p", { className: "note", textContent: "The box below is not ticked, so only the vote is kept, and not what you write here." }));
  const close = element("button", { type: "button", className: "plain", textContent: "Close" });
  close.addEventListener("click", () => form.remove());
  form.append(element("div", { className: "row" }, element("button", { textContent: verb }), close));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await done(field.value)) form.remove();
  });
  answer.place.insertBefore(form, told);
  field.focus();
}

async function post(answer, said, told) {
  const about = { rater: rater(), model: answer.model, version: answer.version || "", messages: answer.asked, answer: answer.content, consent: consent() };
  try {
    told.textContent = toldOf(await (await request("/feedback", { ...about, ...said })).json());
    return true;
  } catch (error) {
    told.textContent = `Not kept: ${error.message}`;
    return false;
  }
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || running) return;
  message.value = "";
  ask(text);
});
sendOnEnter(message, composer);
stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("#new").addEventListener("click", () => {
  running?.abort();
  turns = [];
  log.replaceChildren();
  $("#empty").hidden = false;
  showProblem(null);
  message.focus();
});
$("#key").addEventListener("change", listModels);
$("#model").addEventListener("change", showChosen);
useKey();
listModels();
showConsent();
