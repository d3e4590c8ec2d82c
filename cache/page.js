// What the scripts of every page share: the theme, its colours, and the data that the page carries.
"use strict";

const mgcliPage = (() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const print = matchMedia("print");
  const probe = document.createElement("span"); // a custom property has its colour only once it is used
  probe.hidden = true;
  document.body.append(probe);

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches) && !print.matches;

  function colour(name) {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  }

  function data(id) {
    const element = document.getElementById(id);
    return element === null ? null : JSON.parse(element.textContent);
  }

  function announce() {
    button.textContent = isDark() ? "Light page" : "Dark page";
    document.dispatchEvent(new CustomEvent("mgcli-theme", { detail: { dark: isDark() } }));
  }

  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    announce();
  });
  systemDark.addEventListener("change", announce);
  print.addEventListener("change", announce);
  button.textContent = isDark() ? "Light page" : "Dark page";
  return { colour, data, isDark };
})();
