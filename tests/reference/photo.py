"""Pictures that are as expensive to decode and resize as photos."""

import torch
from PIL import Image


def photo(seed, height=375, width=500):
    """Noise with a photo's spectrum: brightness falls with the frequency, colours faster."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    frequency[0, 0] = torch.inf

    def field(power):
        noise = torch.fft.fft2(torch.randn(height, width, generator=generator))
        values = torch.fft.ifft2(noise * frequency**-power).real
        return values / values.std()

    light, blue, red = 128 + 45 * field(1.1), 20 * field(1.6), 20 * field(1.6)
    channels = [light + 1.402 * red, light - 0.344 * blue - 0.714 * red, light + 1.772 * blue]
    return Image.fromarray(torch.stack(channels, dim=-1).clamp(0, 255).byte().numpy())
