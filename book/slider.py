"""The page with the slider that needs no kernel: the frames of frames.py, a range input, and thirty lines of script."""

import base64
import html
import json
from pathlib import Path

FRAMES = Path(__file__).resolve().parent / "frames"
BEGIN = 10  # the frame that is shown first, and all that is shown where scripts are off

PAGE = """# The slider, without a kernel

Ten test digits and two networks, one of them trained on batches that were joined with FGSM images at 0.1. Drag epsilon,
or use the arrow keys: from left to right each pixel may move further. A wrong answer is framed and marked ✗; the tile
that is underlined is shown larger, with its perturbation and with what the network believes (the true class in blue).

```{{raw}} html
<div class="slider">
  <p><label for="radius">epsilon</label>
    <input type="range" id="radius" min="0" max="{last}" step="1" value="{begin}" aria-describedby="said">
    <output for="radius" id="value">{eps}</output>
    <span role="radiogroup" aria-label="attack">{choices}</span></p>
  <div class="frame"><img id="frame" width="{width}" height="{height}" src="{src}" alt="{alt}"></div>
  <p id="said" role="status" aria-live="polite">{said}</p>
</div>
<script type="application/json" id="frames">{frames}</script>
<script>
  (() => {{
    const find = (id) => document.getElementById(id);
    const {{eps, words, pictures}} = JSON.parse(find("frames").textContent);
    const show = () => {{
      const number = Number(find("radius").value);
      const attack = document.querySelector(".slider input[type=radio]:checked").value;
      find("frame").src = "data:image/png;base64," + pictures[attack][number];
      find("frame").alt = attack + ": " + words[attack][number];
      find("value").textContent = eps[number].toFixed(3);
      find("radius").setAttribute("aria-valuetext", eps[number].toFixed(3));
      find("said").textContent = words[attack][number];
    }};
    document.querySelector(".slider").addEventListener("input", show);
    show();
  }})();
</script>
```

Each of these {count} pictures was computed by the code that draws the slider of
[notebook 3](notebooks/03_visualize.ipynb), and kept. There, under a kernel, it goes on: other digits, digits near the
boundary, noise of the same size, and a pad to draw a digit of your own.
"""


def slider(source):
    """Write slider.md into the folder of sources."""
    about = json.loads((FRAMES / "frames.json").read_text(encoding="utf-8"))
    eps, words = about["eps"], about["words"]
    pictures = {
        attack: [
            base64.b64encode((FRAMES / f"{attack}-{number:02}.png").read_bytes()).decode() for number in range(len(eps))
        ]
        for attack in words
    }
    first = next(iter(words))
    choices = " ".join(
        f'<label><input type="radio" name="attack" value="{attack}"{" checked" * (attack == first)}> {attack}</label>'
        for attack in words
    )
    text = PAGE.format(
        last=len(eps) - 1,
        begin=BEGIN,
        eps=f"{eps[BEGIN]:.3f}",
        choices=choices,
        width=about["width"],
        height=about["height"],
        src=f"data:image/png;base64,{pictures[first][BEGIN]}",
        alt=html.escape(f"{first}: {words[first][BEGIN]}"),
        said=html.escape(words[first][BEGIN]),
        frames=json.dumps(dict(eps=eps, words=words, pictures=pictures)),
        count=sum(map(len, pictures.values())),
    )
    (source / "slider.md").write_text(text, encoding="utf-8")
