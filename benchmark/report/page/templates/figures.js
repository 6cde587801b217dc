// Figures open large in a dialog; Escape or the button closes it, and focus goes back.

const large = document.getElementById("large");
let opener = null;

function openLarge(figure, button) {
  const small = find("img", figure);
  const image = find("img", large);
  image.src = small.src;
  image.alt = small.alt;
  image.width = small.width;
  image.height = small.height;
  find("#large-title").textContent = find("figcaption b", figure).textContent.replace(/\.$/, "");
  find("#large-caption").textContent = find("figcaption", figure).dataset.caption;
  opener = button;
  large.showModal();
  find("button", large).focus();
}

large.addEventListener("close", () => opener && opener.focus());
large.addEventListener("click", (event) => {
  if (event.target === large) large.close(); // a click beside what it shows
});

for (const figure of document.querySelectorAll(".figures figure")) {
  const caption = find("figcaption", figure);
  const title = find("b", caption).textContent.replace(/\.$/, "");
  caption.dataset.caption = caption.lastChild.textContent.trim();
  const button = element("button", { type: "button", class: "enlarge", "aria-haspopup": "dialog" }, "Enlarge", element("span", { class: "spoken" }, ` ${title}, ${figure.parentElement.dataset.place}`));
  caption.append(" ", button);
  button.addEventListener("click", () => openLarge(figure, button));
  // For pointers only: the button does the same for everybody else.
  find("img", figure).addEventListener("click", () => openLarge(figure, button));
}

