"use strict";
// Thumbnails, which the page holds once, and the switch between the maps of features.
{
  const { pictures } = report.data("features");
  for (const image of document.querySelectorAll("img[data-picture]"))
    image.src = pictures[image.dataset.picture].image;

  for (const choice of document.querySelectorAll(".switch[data-maps]")) {
    const maps = document.getElementById(choice.dataset.maps);
    const show = () => {
      const method = choice.querySelector("input:checked").value;
      for (const map of maps.children) map.classList.toggle("off", map.dataset.map !== method);
    };
    choice.hidden = false;
    choice.addEventListener("change", show);
    show();
  }
}
