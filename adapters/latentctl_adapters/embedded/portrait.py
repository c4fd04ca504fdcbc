"""Paints faces from named numbers, as `drawn_faces.render` says.

Coordinates, masks and colours are those of `canvas`.
"""

from __future__ import annotations

__all__ = ["SKIN", "Portrait"]

import math

import torch
from torch import Tensor

from .canvas import WHITE, Canvas, bump, mix, norm, palette, rgb

HAIR = {  # linear in the attribute, so that a mixture of two colours is drawn as a mixture
    "Black_Hair": (0.10, 0.09, 0.09),
    "Blond_Hair": (0.86, 0.70, 0.42),
    "Brown_Hair": (0.36, 0.23, 0.14),
    "Gray_Hair": (0.72, 0.72, 0.74),
}
AUBURN = (0.52, 0.20, 0.10)
SKIN = (
    (0.96, 0.81, 0.72),
    (0.90, 0.71, 0.58),
    (0.76, 0.55, 0.41),
    (0.55, 0.37, 0.27),
    (0.36, 0.23, 0.17),
)


class Portrait(Canvas):
    """Pictures of faces; each method paints what its name says, in the order of `picture`."""

    def picture(self) -> Tensor:
        """The finished pictures, `(B, 3, size, size)` in [0, 1]."""
        self.mix_colours()
        outline = self.hair_outline()
        self.background()
        self.paint_hair(self.cover(outline), 0.68)
        self.body()
        self.head()
        self.crown()
        self.lips = self.y - self.to("mouth_height", 0.385, 0.435)
        features = self.crop(-0.56, 0.90, 0.75, "lips", "face", "edge")  # cheaper to paint
        features.cheeks()
        features.eyes()
        features.brows()
        features.age()
        features.nose()
        features.beard()
        features.mouth()
        self.hair(outline)
        features.glasses()
        self.hat()
        self.shade(self.to("light_warmth", -0.06, 0.06), rgb(-1.0, -0.1, 1.0))
        return self.rgb.clamp_(0, 1)

    def mix_colours(self) -> None:
        place = self.factor["skin_tone"].pow(1.5) * (len(SKIN) - 1) * 0.999
        stops, low = torch.tensor(SKIN)[..., None, None], place.long().flatten()
        skin = mix(stops[low], stops[low + 1], place.frac())
        skin = skin + self.to("skin_undertone", -1, 1) * rgb(0.02, 0.0, -0.03)
        self.skin = mix(skin, rgb(0.97, 0.90, 0.88), 0.85 * self.has["Pale_Skin"])
        named = torch.stack([self.has[name] for name in HAIR]).sum(0)
        hair = (1 - named).clamp_min(0) * rgb(*AUBURN)
        for name, colour in HAIR.items():
            hair = hair + self.has[name] * rgb(*colour)
        hair = hair / named.clamp_min(1) * self.to("hair_shade", 0.8, 1.15)
        self.hair_colour = mix(hair, 0.9 * hair.mean(1, keepdim=True) + 0.08, 0.3 * self.old)
        self.brow_colour = 0.62 * self.hair_colour + 0.12 * self.skin

    def background(self) -> None:
        hue, lightness = self.factor["background_hue"], self.to("background_lightness", 0.25, 0.82)
        x, y, angle = self.x0, self.y0, self.to("background_gradient", 0, 2 * math.pi)
        ramp = (x * angle.cos() + y * angle.sin()) * 0.4 + 0.5
        near, far = palette(hue, lightness, 0.09), palette(hue + 0.12, 0.6 * lightness, 0.07)
        self.rgb[:] = mix(near, far, ramp)
        self.shade(-0.35 * bump((x - 0.7 * self.light) / 0.9, (y + 0.5) / 0.8), WHITE)

    def hair_outline(self) -> Tensor:
        """Signed distance to the hair seen from the front, the face not yet cut out."""
        x, y, man = self.x, self.y, self.male
        volume = self.to("hair_volume", 0.05, 0.15) - 0.035 * man
        flare = self.to("hair_wave", 0.0, 0.16) * (1 - man)
        cropped = 1 - 0.9 * man * ((y + 0.5) / 0.4).clamp(0, 1)
        waves = (y + 0.05).clamp_min(0) + 0.3 * torch.sin(9 * y)
        half = self.width + volume * cropped + flare * waves
        above = (y + 0.05).clamp_max(0) / (0.61 + mix(1.1, 1.9, man) * volume)
        outer = (norm(x / half, above) - 1) * half
        length = mix(self.to("hair_length", 0.35, 1.25), self.to("hair_length", -0.06, 0.10), man)
        ends = y - length - 0.10 * x.square() + 0.02 * torch.sin(26 * x + 9 * flare)
        return torch.maximum(outer, ends * 0.6)

    def paint_hair(self, mask: Tensor, level: float) -> None:
        x, y = self.x, self.y
        fan = x / (y.clamp(-0.9, 0.3) + 1.25)
        strand = torch.sin(46 * fan + 3 * y) + torch.sin(29 * fan - 5 * y + 2)
        gloss = (1 - 0.9 * (x - 0.3 * self.light).abs()).clamp_min(0)
        gloss = 0.20 * gloss * bump((y + 0.52 - 0.25 * x.square()) / 0.24)
        shade = 0.88 - 0.25 * y.clamp_min(-0.3) + 0.10 * self.light * x + 0.075 * strand
        colour = level * (self.hair_colour * (shade + gloss) + 0.12 * gloss)
        self.paint(mask * (1 - self.bald), colour)

    def body(self) -> None:
        x, y, side = self.x0, self.y0, self.x0.abs()
        neck = self.cover(side - mix(0.215, 0.315, self.male) - 0.6 * (y - 0.85).clamp_min(0))
        shoulder = 0.86 + x.square() * mix(0.35, 0.22, self.male) - 0.05 * self.male
        cloth = palette(self.factor["clothes_hue"], self.to("clothes_lightness", 0.15, 0.8), 0.16)
        self.paint(self.cover(shoulder - y), cloth)
        collar = neck * self.cover(y - 1.0 + 1.2 * (side - 0.1).clamp_min(0))
        self.paint(collar * self.cover(0.4 - y), 0.84 * self.skin)
        self.shade(0.28 * neck * bump(x / 1.4, (y - 0.72) / 0.30))

    def head(self) -> None:
        x, y = self.x, self.y
        ear = norm((x.abs() - self.width + 0.02 - 0.03 * self.male) / 0.065, (y - 0.05) / 0.14)
        self.paint(self.cover((ear - 1) * 0.065), self.skin * rgb(0.90, 0.82, 0.80))
        down = y.clamp_min(0) / (self.to("face_length", 0.68, 0.76) + 0.02 * self.male)
        taper = self.to("jaw", 0.42, 0.26) - 0.12 * self.male + 0.02 * self.old
        half = (self.width * (1 - taper * down.square())).clamp_min(0.05)
        across = (x - 0.10 * self.yaw.sin() * down).abs() / half
        along = torch.where(y < 0, -y / 0.62, down)
        power = torch.where(y < 0, 2.05, 2.1 + self.to("chin", 0.0, 0.3) + 0.25 * self.male)
        self.edge = ((across.pow(power) + along.pow(power)).pow(1 / power) - 1) * 0.5
        self.face = self.cover(self.edge)
        self.paint(self.face, self.skin)
        right, low = x / (1.15 * self.width), (y - 0.05) / 0.9  # of the surface normal
        front = (1 - right.square() - low.square()).clamp_min(0).sqrt()
        lit = 0.45 * self.light * right - self.to("light_height", 0.1, 0.5) * low + 0.75 * front
        forehead = bump((self.u - 0.1 * self.light) / 0.30, (y + 0.36) / 0.22)
        self.shade((0.62 * (0.62 - lit).clamp_min(-0.16) - 0.16 * forehead) * self.face)

    def crown(self) -> None:
        """Gloss and cropped sides of a bald head."""
        x, y, bald = self.x, self.y, self.bald
        self.shade(-0.22 * bald * bump((x - 0.16 * self.light) / 0.20, (y + 0.46) / 0.10))
        sides = self.cover(0.93 * self.width - x.abs(), 0.10) * self.face
        self.paint(0.45 * bald * (sides * self.between(y, -0.24, 0.06, 0.12)), self.brow_colour)

    def cheeks(self) -> None:
        y, side, smile = self.y, self.u.abs(), self.smile
        rosy = bump((side - 0.29) / 0.19, (y - 0.22 + 0.03 * smile) / 0.16)
        self.shade((self.to("blush", 0.01, 0.11) + 0.05 * smile) * rosy, rgb(-0.25, 1.0, 0.75))
        self.shade(-0.10 * smile * bump((side - 0.27) / 0.13, (y - 0.17) / 0.10))
        fold = bump((side - 0.115 - 0.42 * (y - 0.20).clamp(0, 0.25)) / 0.05)
        self.shade((0.12 * smile + 0.26 * self.old) * (fold * self.between(y, 0.19, 0.40, 0.08)))

    def eyes(self) -> None:
        v, side = self.v, self.u.sign()
        down = self.down + self.to("eye_tilt", -0.12, 0.16) * v
        half = self.to("eye_size", 0.098, 0.122) - 0.004 * self.male
        tall = self.to("eye_size", 0.052, 0.074) - 0.010 * self.male - 0.006 * self.old
        lid = tall * (1 - 0.18 * self.smile) * (1 - (v / half).square()).clamp_min(-1)
        self.shade(0.20 * bump(v / 0.20, (down + 0.05) / 0.14), rgb(0.8, 1, 1))
        white = self.between(down, -lid, 0.8 * lid)
        self.paint(white, rgb(0.90, 0.88, 0.86))
        self.shade(0.22 * white * bump((down + tall) / 0.06), WHITE)
        gaze = self.to("gaze", -0.022, 0.022) + 0.03 * self.yaw
        fair = (1.3 - 1.5 * self.factor["skin_tone"]).clamp(0, 1)
        hue = 0.06 + 0.54 * fair * self.factor["eye_colour"].square()
        iris = palette(hue, self.to("eye_lightness", 0.16, 0.40) * (0.6 + 0.4 * fair), 0.10)
        r = norm(v - gaze * side, down + 0.008)
        self.paint(white * self.cover(r - 0.060), iris)
        self.paint(white * self.cover(r - 0.028, 0.05), rgb(0.04, 0.03, 0.03))
        spark = norm(v - (gaze + 0.022 * self.light) * side, down + 0.03)
        self.paint(0.95 * white * self.cover(spark - 0.016), WHITE)
        inside = self.cover(v.abs() - half)
        lash = inside * self.between(down, -lid - mix(0.030, 0.017, self.male), 0.006 - lid)
        self.paint(mix(0.88, 0.62, self.male) * lash, 0.22 * self.skin)
        crease = bump((down + lid + 0.05) / 0.02) + self.between(down, 0.8 * lid, 0.8 * lid + 0.015)
        self.shade(0.21 * inside * crease)

    def brows(self) -> None:
        w = (self.v + 0.005) / self.to("brow_thickness", 0.13, 0.145)
        arch = self.to("brow_arch", 0.0, 0.05) * (1 - (w - 0.3).square()) - 0.012 * self.old * w
        line = self.down + self.to("brow_height", 0.135, 0.175) - 0.025 * self.male + arch
        thick = (self.to("brow_thickness", 0.016, 0.028) + 0.012 * self.male) * (1 - 0.35 * w)
        hairs = self.between(line, -thick, thick, 0.035) * self.cover((w.abs() - 1) * 0.14, 0.05)
        self.paint(0.85 * hairs, self.brow_colour)

    def age(self) -> None:
        """Lines on the forehead and beside the eyes, bags below them, heavier cheeks."""
        u, v, down = self.u, self.v, self.down
        wave = self.y + 0.025 * torch.cos(7 * u)
        lines = sum(bump((wave + at) / 0.028) for at in (0.36, 0.29, 0.22)) * bump(u / 0.34)
        bags = bump((down - 0.13 + 1.6 * v.square()) / 0.045) * bump(v / 0.13)
        hollows = bump(v / 0.14, (down - 0.08) / 0.08)
        out, feet = v - 0.12, bump((v - 0.18) / 0.07)
        feet = (bump((down - 0.4 * out) / 0.02) + bump((down + 0.03 + 0.3 * out) / 0.02)) * feet
        jowls = bump((u.abs() - 0.32) / 0.17, (self.y - 0.36) / 0.20)
        marks = 0.22 * lines + 0.30 * bags + 0.14 * hollows + 0.20 * feet + 0.08 * jowls
        self.shade(self.old * marks)

    def nose(self) -> None:
        y, light, tip = self.y, self.light, self.to("nose_length", 0.19, 0.25)
        half = self.to("nose_width", 0.068, 0.105) + 0.01 * self.male
        u = self.u - 0.10 * self.yaw.sin() * (1 - (y / tip - 0.8).square()).clamp_min(0)
        dark = 0.20 * (0.35 + light.abs()) * bump((u + (0.055 + 0.2 * half) * light.sign()) / 0.06)
        ridge = dark - 0.10 * bump((u - 0.02 * light) / 0.045)
        ball = bump((u - 0.015 * light) / 0.05, (y - tip + 0.03) / 0.05)
        wings = bump((u.abs() - half) / 0.035, (y - tip - 0.005) / 0.055)
        below = bump(u / (half + 0.03), (y - tip - 0.045) / 0.035)
        holes = bump((u.abs() - 0.5 * half) / 0.034, (y - tip - 0.025) / 0.022)
        self.shade(ridge * self.between(y, -0.08, tip, 0.16) - 0.16 * ball)
        self.shade(0.30 * wings + 0.30 * below)
        self.shade(0.62 * holes, rgb(0.9, 1, 1))

    def mouth(self) -> None:
        smile, gap, stick = self.smile, 0.085 * self.smile, self.has["Wearing_Lipstick"]
        half = self.to("mouth_width", 0.135, 0.175) + 0.045 * smile
        t = self.u / half
        arch = (1 - t.square()).clamp_min(-0.5)
        curve = mix(self.to("mouth_curve", -0.016, 0.026), 0.095, smile)
        line = self.lips + 0.02 * smile - curve * (0.5 - t.square())
        full = self.to("lip_fullness", 0.034, 0.060) * (1 - 0.2 * self.male - 0.22 * self.old)
        full *= 1 - 0.2 * smile
        bare = self.skin * rgb(0.90, 0.66, 0.64) + self.to("lip_tint", 0, 0.06) * rgb(1, -0.2, 0.1)
        red = palette(self.to("lip_tint", -0.12, 0.03), 0.42, 0.38) * rgb(1.0, 0.75, 0.9)
        lip = mix(bare, red, 0.9 * stick)
        inside = self.cover((t.abs() - 1) * half)
        below = line - gap - full
        self.shade(0.22 * bump(t / 0.9, (below - 0.15 * full - 0.04) / 0.045))
        upper = 0.85 * full * (arch - 0.30 * bump(t / 0.28))
        self.paint(inside * self.between(line, -upper, gap * arch + 0.004), 0.86 * lip)
        self.paint(inside * self.between(line, gap * arch - 0.004, (gap + 1.15 * full) * arch), lip)
        gloss = bump((self.u - 0.04 * self.light) / (0.6 * half), (below + 0.45 * full) / 0.025)
        self.shade(-(0.25 + 0.35 * stick) * gloss, WHITE)
        opening = inside * smile * self.between(line, 0.0, gap * arch)
        self.paint(opening, rgb(0.30, 0.07, 0.08))
        teeth = self.between(line, -0.02, gap * (0.78 * arch - 0.02))
        self.paint(opening * teeth, rgb(0.96, 0.95, 0.92))
        self.paint(0.75 * (1 - smile) * inside * self.between(line, -0.011, 0.011), 0.35 * lip)
        self.shade((0.30 + 0.25 * smile) * bump((t.abs() - 1) / 0.22, (line - 0.4 * gap) / 0.05))

    def beard(self) -> None:
        u, y, down = self.u, self.y, self.lips
        extent, grown = self.factor["beard_extent"], 1 - self.has["No_Beard"]
        colour = self.brow_colour
        ratio = colour.mean(1, keepdim=True) / self.skin.mean(1, keepdim=True)
        darker = (0.55 / ratio).clamp_max(1)  # a beard as bright as the skin would be invisible
        colour = colour * mix(darker, 1.0, ((ratio - 1) / 0.3).clamp(0, 1))
        grain = 0.97 + 0.03 * torch.sin(61 * self.x + 23 * y) * torch.sin(37 * y - 14 * self.x)
        cheek = norm(u / mix(0.27, 0.44, extent), (y - 0.08) / mix(0.34, 0.30, extent))
        mouth = norm(u / 0.20, (down - 0.03) / 0.112)
        area = self.cover(0.3 - 0.3 * cheek, 0.12) * self.cover(0.13 - 0.13 * mouth, 0.05)
        area = area * self.cover(self.edge - 0.02) * self.cover(0.10 - y, 0.2)
        self.paint(grown * area * self.to("beard_extent", 0.92, 0.80) * grain, colour)
        self.paint(0.75 * grown * bump(u / 0.08, (down - 0.17) / 0.07), colour)
        w = u.abs() / 0.24
        line = down + 0.085 - 0.07 * w.square() + 0.035 * self.smile
        strip = self.between(line, 0.021 * w - 0.042, 0.036 - 0.011 * w, 0.035)
        strip *= self.cover((w - 1) * 0.24, 0.05)
        self.paint(0.95 * self.has["Mustache"] * strip * grain, colour)

    def hair(self, outline: Tensor) -> None:
        u, bangs = self.u, self.has["Bangs"]
        half = self.width * mix(0.87, 0.93, self.male)
        parting = self.to("hair_part", -0.35, 0.35) * (1 - 0.5 * self.male) * u
        line = self.to("hairline", -0.54, -0.44) - 0.04 * self.old * self.male + parting
        fringe = 0.05 * u + 0.018 * torch.sin(38 * u + 6 * self.factor["hair_part"]) - 0.20
        top, bottom, power = mix(line, fringe, bangs), -0.02 - 0.08 * bangs, 2.5 + 1.5 * bangs
        rise = (bottom - self.y).clamp_min(0) / (bottom - top)
        opening = half * (((u.abs() / half).pow(power) + rise.pow(power)).pow(1 / power) - 1)
        shadow = self.cover(-opening - 0.10, 0.14) * self.cover(outline + 0.02, 0.1) * self.face
        self.shade(0.20 * (1 - self.bald) * shadow)
        self.paint_hair(self.cover(outline) * self.cover(-opening, 0.05), 1.0)

    def glasses(self) -> None:
        worn, shape = self.has["Eyeglasses"], self.factor["glasses_shape"]
        side, v, down, wide = self.u.abs(), self.v - 0.005, self.down - 0.015, 0.172
        corner = mix(0.035, 0.10, shape)
        out_x, out_y = v.abs() - wide + corner, down.abs() - mix(0.115, 0.152, shape) + corner
        beyond = norm(out_x.clamp_min(0), out_y.clamp_min(0))
        lens = beyond + torch.maximum(out_x, out_y).clamp_max(0) - corner
        glass = worn * self.cover(lens)
        self.shade(glass * self.to("glasses_colour", 0.10, 0.32), WHITE)
        self.shade(0.25 * glass * bump((lens - 0.03) / 0.05))
        self.paint(0.30 * glass * bump((v * self.u.sign() - 0.05 + 0.7 * down) / 0.035), WHITE)
        temple = self.cover(wide - v) * self.face * self.cover(side - 0.9 * self.width)
        bridge = self.cover(side - self.eye_x + wide)
        bars = self.cover((down + 0.04).abs() - 0.018) * torch.maximum(bridge, temple)
        frame = torch.maximum(self.cover(lens.abs() - 0.021), bars)
        self.paint(worn * frame, palette(self.factor["glasses_colour"], 0.12, 0.09))

    def hat(self) -> None:
        x, y, worn, shape = self.x, self.y, self.has["Wearing_Hat"], self.factor["hat_shape"]
        colour = palette(self.factor["hat_colour"], self.to("clothes_hue", 0.22, 0.70), 0.20)
        half, brim_y, thick = self.width + 0.13, -0.31, mix(0.075, 0.045, shape)
        self.shade(0.38 * worn * self.face * self.between(y, brim_y, brim_y + 0.10, 0.12))
        r = norm(x / half, (y - brim_y).clamp_max(0) / 0.60)
        crown = worn * self.cover((r - 1) * half) * self.cover(y - brim_y)
        level = 0.96 - 0.5 * (x / half).square() + 0.25 * self.light * x - 0.2 * y
        self.paint(crown, colour * level * (1 + 0.07 * torch.sin(52 * x) * (1 - shape)))
        self.paint(crown * self.cover(brim_y - 0.15 - y) * mix(0.25, 0.9, shape), 0.5 * colour)
        reach = half + mix(-0.02, 0.34, (2 * shape - 0.7).clamp(0, 1))
        drop = y - brim_y - 0.03 + 0.10 * shape * (x / reach).square()
        brim = worn * self.cover(x.abs() - reach) * self.between(drop, -thick, thick)
        self.paint(brim, colour * (0.80 + 0.2 * self.light * x - 0.6 * drop))
