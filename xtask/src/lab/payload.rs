// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Takes the ELF kernel out of a bzImage, and kernel modules out of their compression.
//!
//! The payload's place comes from the boot-protocol fields `payload_offset` and `payload_length`
//! (Linux x86 boot protocol 2.08 and later); its format from its first bytes. The lab boots the
//! ELF image directly, since decompressing a kernel under an emulated CPU takes seconds.

use std::io::Read;

use anyhow::{Context as _, Result, bail};

/// No kernel is larger than this when decompressed; a damaged payload cannot eat all memory.
const DECOMPRESSED_BYTES_MAX: u64 = 512 << 20;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// The ELF file inside a bzImage, decompressed.
pub(crate) fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("not a bzImage: no \"HdrS\" at offset 0x202");
    }
    let version = u16::from_le_bytes(array(image, 0x206)?);
    if version < 0x208 {
        bail!("boot protocol {version:#x} has no payload fields; 0x208 or later is needed");
    }
    let sectors = match image.get(0x1f1) {
        Some(0) | None => 4,
        Some(&n) => usize::from(n),
    };
    let offset = u32::from_le_bytes(array(image, 0x248)?) as usize;
    let length = u32::from_le_bytes(array(image, 0x24c)?) as usize;
    let start = (sectors + 1) * 512 + offset;
    let payload = image.get(start..start + length).with_context(|| {
        format!("payload at {start:#x}, {length:#x} bytes, ends behind the file")
    })?;
    let elf = decompress(payload)?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("the payload decompresses, but not to an ELF file");
    }
    Ok(elf)
}

/// `data` decompressed by what its first bytes say; as it is when they say nothing.
pub(crate) fn decompress(data: &[u8]) -> Result<Vec<u8>> {
    match data {
        [0x1f, 0x8b, ..] => bounded(flate2::read::GzDecoder::new(data)).context("gzip"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            bounded(lzma_rust2::XzReader::new(data, false)).context("xz")
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(data).context("zstd")?;
            bounded(decoder).context("zstd")
        }
        _ if data.starts_with(&LZ4_LEGACY) => lz4_legacy(&data[4..]).context("lz4"),
        _ => Ok(data.to_vec()),
    }
}

fn bounded(reader: impl Read) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader
        .take(DECOMPRESSED_BYTES_MAX + 1)
        .read_to_end(&mut out)?;
    if out.len() as u64 > DECOMPRESSED_BYTES_MAX {
        bail!("decompresses to more than {DECOMPRESSED_BYTES_MAX} bytes");
    }
    Ok(out)
}

/// Blocks of at most 8 MiB, each behind its length; the kernel build appends 4 bytes of size.
fn lz4_legacy(mut data: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while data.len() > 4 {
        let length = u32::from_le_bytes(array(data, 0)?) as usize;
        let input = data
            .get(4..4 + length)
            .context("a block ends behind the payload")?;
        let n = lz4_flex::block::decompress_into(input, &mut block)?;
        out.extend_from_slice(&block[..n]);
        if out.len() as u64 > DECOMPRESSED_BYTES_MAX {
            bail!("decompresses to more than {DECOMPRESSED_BYTES_MAX} bytes");
        }
        data = &data[4 + length..];
    }
    Ok(out)
}

fn array<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = data
        .get(at..at + N)
        .with_context(|| format!("file ends before {at:#x}"))?;
    Ok(bytes.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(data).unwrap();
        out.finish().unwrap()
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut out = LZ4_LEGACY.to_vec();
        let block = lz4_flex::block::compress(data);
        out.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&block);
        out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        out
    }

    #[test]
    fn gzip_and_lz4_payloads_come_out_whole() {
        let elf = [b"\x7fELF".as_slice(), &[42; 5000]].concat();
        assert_eq!(vmlinux(&bz_image(&gzip(&elf))).unwrap(), elf);
        assert_eq!(vmlinux(&bz_image(&lz4(&elf))).unwrap(), elf);
    }

    #[test]
    fn a_truncated_image_is_an_error_at_every_length() {
        let image = bz_image(&gzip(&[b"\x7fELF".as_slice(), &[42; 500]].concat()));
        for length in 0..image.len() {
            assert!(vmlinux(&image[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_payload_that_is_no_elf_is_refused() {
        let error = vmlinux(&bz_image(&gzip(b"hello"))).unwrap_err();
        assert!(error.to_string().contains("not to an ELF"));
    }
}
