"""Write the pictures of built notebooks as files, to look at:  python chapters/pictures.py 06 OUTDIR"""

import base64
import sys
from pathlib import Path

import nbformat


def main(name: str, folder: str) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((Path(__file__).resolve().parent / "solutions").glob(f"{name}*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    file = out / f"{path.stem}-{cell.id}.png"
                    file.write_bytes(base64.b64decode(output.data["image/png"]))
                    print(f"{file}: {output.metadata['image/png']['alt']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
