"""A picture of an HTML file, as a headless Chromium shows it (`make browser` installs one).

    python -m scripts.screenshot FILE.html PICTURE.png [--width 1280] [--height 900] [--at TEXT]
"""
import argparse
import io
from pathlib import Path

from scripts.browser import open_browser


def screenshot(page: Path, picture: Path, width: int = 1280, height: int = 900, at: str | None = None) -> Path:
    """Writes a picture of a page of so many pixels, scrolled to the first heading that has the text `at`.

    Raises:
        FileNotFoundError: no such page, or no browser. ValueError: no such heading.
    """
    from PIL import Image
    if not page.is_file():
        raise FileNotFoundError(f"no file {page} to show")
    with open_browser(width, height) as driver:
        # a window is larger than what it shows
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
        driver.get(page.resolve().as_uri())
        if at is not None and not driver.execute_script(
                "const e = [...document.querySelectorAll('h1,h2,h3,h4,h5,h6,.accordion-header')]"
                ".find(e => e.textContent.includes(arguments[0])); if (!e) return false;"
                # below the bar that stays at the top
                "window.scrollTo({top: e.getBoundingClientRect().top + window.scrollY - 75, behavior: 'instant'});"
                "return true", at):
            raise ValueError(f"{page} has no heading with the text {at!r}")
        image = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
    picture.parent.mkdir(parents=True, exist_ok=True)
    # 256 colours are a third of the size and look the same
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
    return picture


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m scripts.screenshot", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280, help="pixels")
    parser.add_argument("--height", type=int, default=900, help="pixels")
    parser.add_argument("--at", metavar="TEXT", help="start at the heading with this text")
    args = parser.parse_args(argv)
    try:
        picture = screenshot(args.page, args.picture, args.width, args.height, args.at)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
