// Tables wider than the window scroll in their own box and say so.
addEventListener("load", () => {
  const observer = new ResizeObserver((entries) => requestAnimationFrame(() => {
    for (const { target } of entries) target.toggleAttribute("data-wide", target.scrollWidth > target.clientWidth);
  }));
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) observer.observe(box);
});
