"""Packages of the true form, small: wheels, npm's tarballs, Debian's .deb, Qt's .rcc, a font."""

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

from PIL import Image


def png(picture):
    return encoded(picture, "PNG")


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write_wheel(path, members):
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)


def tar(members, prefix=""):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write_tgz(path, members):
    path.write_bytes(gzip.compress(tar(members)))


def write_deb(path, members):
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar": b"odd",  # an odd number of bytes: a newline is added
        "data.tar.xz": lzma.compress(tar(members, "./")),
    }
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part
        content += b"\n" * (len(part) % 2)
    path.write_bytes(content)


def rcc(files, *, version=3, compressed=(), flag=1):
    """A Qt resource archive: nodes level by level, names, contents."""
    tree = {}
    for path, content in files.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = (path, content)
    levels, names, data = [("", tree)], b"", b""
    rows, position = [], 0
    while position < len(levels):
        name, node = levels[position]
        position += 1
        name_at = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if isinstance(node, dict):
            rows.append(struct.pack(">IHII", name_at, 2, len(node), len(levels)))
            levels += sorted(node.items())
        else:
            path, content = node
            packed = path in compressed
            if packed:
                content = struct.pack(">I", len(content)) + zlib.compress(content)
            rows.append(struct.pack(">IHHHI", name_at, flag * packed, 0, 1, len(data)))
            data += struct.pack(">I", len(content)) + content
    stamp = b"" if version == 1 else bytes(8)
    nodes = b"".join(row + stamp for row in rows)
    start = 20 if version < 3 else 24
    header = struct.pack(
        ">4s4I", b"qres", version, start, start + len(nodes), start + len(nodes) + len(data)
    )
    return header + (b"" if version < 3 else bytes(4)) + nodes + data + names


def font(pictures, ligatures):
    """A font whose glyphs are pictures: by code point, and for sequences of code points."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.misc import sstruct
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables import C_B_D_T_, E_B_L_C_
    from fontTools.ttLib.tables import BitmapGlyphMetrics as metrics

    codes = {*pictures, *(code for sequence in ligatures for code in sequence)}
    glyphs = {code: f"u{code:X}" for code in codes}
    joined = {codes: "_".join(glyphs[code] for code in codes) for codes in ligatures}
    order = [".notdef", *glyphs.values(), *joined.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(glyphs)
    builder.setupHorizontalMetrics({glyph: (1000, 0) for glyph in order})
    builder.setupHorizontalHeader()
    builder.setupMaxp()
    builder.setupOS2()
    builder.setupPost()
    rules = "".join(
        f"sub {' '.join(glyphs[code] for code in codes)} by {glyph};"
        for codes, glyph in joined.items()
    )
    builder.addOpenTypeFeatures(f"feature ccmp {{ {rules} }} ccmp;")
    contents = {glyphs[code]: content for code, content in pictures.items()}
    contents |= {joined[codes]: content for codes, content in ligatures.items()}
    bitmaps, table = newTable("CBDT"), E_B_L_C_.eblc_index_sub_table_1(None, None)
    bitmaps.version, bitmaps.strikeData = 3.0, [{}]
    for name, content in contents.items():
        bitmap = C_B_D_T_.cbdt_bitmap_format_17(None, None)
        bitmap.metrics = metrics.SmallGlyphMetrics()
        for key in ("height", "width", "BearingX", "BearingY", "Advance"):
            setattr(bitmap.metrics, key, 10)
        bitmap.imageData = content
        bitmaps.strikeData[0][name] = bitmap
    table.names = sorted(contents, key=order.index)
    table.indexFormat, table.imageFormat = 1, 17
    table.firstGlyphIndex = order.index(table.names[0])
    table.lastGlyphIndex = order.index(table.names[-1])
    strike = E_B_L_C_.Strike()
    strike.bitmapSizeTable, strike.indexSubTables = E_B_L_C_.BitmapSizeTable(), [table]
    for key in ("colorRef", "startGlyphIndex", "endGlyphIndex"):
        setattr(strike.bitmapSizeTable, key, 0)
    for key, value in {"ppemX": 10, "ppemY": 10, "bitDepth": 32, "flags": 1}.items():
        setattr(strike.bitmapSizeTable, key, value)
    for direction in ("hori", "vert"):
        line = E_B_L_C_.SbitLineMetrics()
        for key in sstruct.getformat(E_B_L_C_.sbitLineMetricsFormat)[1]:
            setattr(line, key, 0)
        setattr(strike.bitmapSizeTable, direction, line)
    places = newTable("CBLC")
    places.version, places.strikes = 3.0, [strike]
    builder.font["CBDT"], builder.font["CBLC"] = bitmaps, places
    file = io.BytesIO()
    builder.save(file)
    return file.getvalue()


def flat(colour, size=(8, 8)):
    return Image.new("RGB", size, colour)
