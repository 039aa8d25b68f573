"use strict";
// A click enlarges a picture; another click, or Escape, makes it small again.
document.addEventListener("click", event => {
  const large = document.querySelector("img.large");
  if (large) large.classList.remove("large");
  else if (event.target.matches?.(".cell_output img")) event.target.classList.add("large");
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape") document.querySelector("img.large")?.classList.remove("large");
});
// Sphinx leaves numbers out of its search: an exercise's number leads to its place in the list of exercises.
const number = new URLSearchParams(location.search).get("q")?.trim();
if (/\/search\.html$/.test(location.pathname) && /^\d+\.\d+$/.test(number ?? "")) location.replace(`exercises.html#exercise-${number.replace(".", "-")}`);
