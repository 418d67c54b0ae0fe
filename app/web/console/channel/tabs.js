/** Tabs: one is shown, the arrow keys move between them. */

/** Make a tab list work; each tab names its panel by `aria-controls`. */
export function tabs(list) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const select = (chosen) => {
    for (const tab of all) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
  };
  all.forEach((tab, index) => {
    tab.onclick = () => select(tab);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step === undefined) return;
      const next = all[(index + step + all.length) % all.length];
      select(next);
      next.focus();
    };
  });
  return { first: () => select(all[0]) };
}
