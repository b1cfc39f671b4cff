// Tables wider than the window scroll in their own box and say so.
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll(".md-typeset__scrollwrap")];
  const mark = () => boxes.forEach((box) => box.toggleAttribute("data-wide", box.scrollWidth > box.clientWidth));
  mark();
  const observer = new ResizeObserver(() => requestAnimationFrame(mark));
  for (const box of boxes) observer.observe(box);
});
