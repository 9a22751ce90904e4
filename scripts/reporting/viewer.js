for (const viewer of document.querySelectorAll(".viewer")) {
  const wipe = viewer.querySelector(".wipe"), range = wipe.querySelector("input");
  const [under, over] = wipe.querySelectorAll("img");
  const left = wipe.querySelector(".left"), right = wipe.querySelector(".right");
  const tiles = viewer.querySelector(".tiles").children, buttons = viewer.querySelectorAll("button");
  const move = () => {
    wipe.style.setProperty("--cut", range.value + "%");
    range.setAttribute("aria-valuetext", `${range.value} % ${left.textContent}, the rest ${right.textContent}`);
  };
  const show = (tile, image, label) => {
    image.src = tile.firstElementChild.src;
    label.textContent = tile.dataset.name;
  };
  for (const button of buttons) button.addEventListener("click", () => {
    show(button, over, left);
    show(tiles[button.dataset.right], under, right);
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    move();
  });
  range.addEventListener("input", move);
  move();
}
