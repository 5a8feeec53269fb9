"use strict";
// The filters of the findings; report.html#kind=missing opens filtered. Without scripts all findings are shown.
(() => {
  const form = document.querySelector(".filters");
  if (!form) return;
  const rows = [...document.querySelectorAll(".findings tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const value = (id) => document.getElementById(id).value;
  const filter = () => {
    const kind = value("kind"), source = value("source"), text = value("text").trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = Boolean((kind && row.dataset.kind !== kind) || (source && row.dataset.source !== source)
        || !texts[at].includes(text));
      if (!row.hidden) shown += 1;
    });
    document.getElementById("shown").textContent = `${shown} of ${rows.length}`;
  };
  const follow = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (![...wanted.keys()].some((key) => ["kind", "source", "text"].includes(key))) return;
    for (const id of ["kind", "source", "text"]) document.getElementById(id).value = wanted.get(id) || "";
    filter();
    form.scrollIntoView();
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", follow);
  filter();
  follow();
})();
