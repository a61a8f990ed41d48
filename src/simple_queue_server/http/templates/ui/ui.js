// What the pages can do only with a script: local times, and parts that are brought up to date as requests move on.
"use strict";

const LEAST_MS = 1000; // between two updates
const MAX_MS = 5000;

// As much of a time as tells it from others: of today its time, of this year no year. Pointing at it shows all.
const partsOf = (time, isDate) => {
  const now = new Date();
  if (isDate) return {dateStyle: "medium"};
  if (time.toDateString() === now.toDateString()) return {timeStyle: "medium"};
  const year = time.getFullYear() === now.getFullYear() ? {} : {year: "numeric"};
  return {...year, month: "short", day: "numeric", hour: "2-digit", minute: "2-digit"};
};

const showTimes = (root) => {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    element.title = element.dateTime;
    element.textContent = time.toLocaleString(undefined, partsOf(time, "date" in element.dataset));
  }
};

const say = (text) => {
  const status = document.getElementById("connection");
  if (status && status.textContent !== text) status.textContent = text;
};

const replaceLive = (page) => {
  for (const old of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(old.id);
    if (!fresh || old.contains(document.activeElement) && document.activeElement !== old) continue;
    showTimes(fresh);
    if (fresh.innerHTML !== old.innerHTML) old.replaceChildren(...fresh.childNodes);
  }
};

const update = async () => {
  const response = await fetch(location.href, {headers: {Accept: "text/html"}});
  if (response.redirected || !response.ok) throw new Error(response.statusText);
  replaceLive(new DOMParser().parseFromString(await response.text(), "text/html"));
};

const keepLive = () => {
  let due = null;
  let isBusy = false;
  const run = async () => {
    due = null;
    isBusy = true;
    try {
      await update();
      say("");
    } catch {
      say("The service does not answer; this page tries again.");
    }
    isBusy = false;
    plan(MAX_MS);
  };
  const plan = (delay) => {
    const at = Date.now() + delay;
    if (isBusy || document.hidden || due && due.at <= at) return;
    if (due) clearTimeout(due.timer);
    due = {at, timer: setTimeout(run, delay)};
  };
  const events = new EventSource("/v1/events");
  for (const name of ["accepted", "started", "progress", "finished", "given_back", "missed"]) {
    events.addEventListener(name, () => plan(LEAST_MS));
  }
  document.addEventListener("visibilitychange", () => plan(0));
  plan(MAX_MS);
};

showTimes(document);
if (document.querySelector("[data-live]")) keepLive();
for (const box of document.querySelectorAll("[data-all]")) {
  box.addEventListener("change", () => {
    for (const other of document.getElementsByName(box.dataset.all)) other.checked = box.checked;
  });
}
