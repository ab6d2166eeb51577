"""Small archives in the layout of the npm package @iconify/json."""

import io
import json
import tarfile

from limoe_tf.data import icons


def square(colour, left=4):
    """Returns an icon: 4 by 8 of 16 by 16 units, at the top 4."""
    return {"body": f'<path fill="{colour}" d="M{left} 4h4v8h-4z"/>'}


def icon_set(prefix, author, own, **others):
    """Returns a set of 16 by 16 units under the MIT licence."""
    info = {"name": prefix.title(), "author": {"name": author}, "license": {"spdx": "MIT"}}
    sizes = {"width": 16, "height": 16}
    return {"prefix": prefix, "info": {**info, "category": "UI"}, "icons": own, **sizes, **others}


def write(folder, sets):
    """Writes the archive of some sets into a new folder, and returns the folder."""
    folder.mkdir()
    files = {f"json/{one['prefix']}.json": one for one in sets}
    with tarfile.open(folder / icons.ARCHIVE, "w:gz") as archive:
        for name, content in {"package.json": {}, **files}.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return folder
