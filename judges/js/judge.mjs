// Answers questions about post-quantum algorithms with @noble/post-quantum, one JSON object a line in, one a line out. Bytes are
// base64. It shares no code with what it judges.
import { createCipheriv, createDecipheriv, createHash, hkdfSync, webcrypto } from 'node:crypto';
import { createInterface } from 'node:readline';
import { sha256, sha384, sha512 } from '@noble/hashes/sha2.js';
import { sha3_256, sha3_512, shake128_32, shake256_64 } from '@noble/hashes/sha3.js';
import { ml_kem768_x25519 } from '@noble/post-quantum/hybrid.js';
import { ml_dsa44, ml_dsa65, ml_dsa87 } from '@noble/post-quantum/ml-dsa.js';
import { ml_kem1024, ml_kem512, ml_kem768 } from '@noble/post-quantum/ml-kem.js';
import * as slh from '@noble/post-quantum/slh-dsa.js';

globalThis.crypto ??= webcrypto; // Debian 12's Node has it under this name alone

const algorithms = {
  'ML-KEM-512': ml_kem512,
  'ML-KEM-768': ml_kem768,
  'ML-KEM-1024': ml_kem1024,
  'X-Wing': ml_kem768_x25519,
  'ML-DSA-44': ml_dsa44,
  'ML-DSA-65': ml_dsa65,
  'ML-DSA-87': ml_dsa87,
};
for (const family of ['SHA2', 'SHAKE']) {
  for (const set of ['128s', '128f', '192s', '192f', '256s', '256f']) {
    algorithms[`SLH-DSA-${family}-${set}`] = slh[`slh_dsa_${family.toLowerCase()}_${set}`];
  }
}

const hashes = {
  'SHA2-256': sha256,
  'SHA2-384': sha384,
  'SHA2-512': sha512,
  'SHA3-256': sha3_256,
  'SHA3-512': sha3_512,
  'SHAKE-128': shake128_32,
  'SHAKE-256': shake256_64,
};

const decode = (s) => new Uint8Array(Buffer.from(s ?? '', 'base64'));
const encode = (b) => Buffer.from(b).toString('base64');

// signer is the pure, the pre-hash or the external-mu form. HashML-DSA with a hash below the set's strength is the judge's to refuse.
function signer(q) {
  const alg = algorithms[q.algorithm];
  return q.hash ? alg.prehash(hashes[q.hash]) : alg;
}

// The KEM envelope, after docs/formats/kem-envelope.md and docs/formats/envelope.md.
const u32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32BE(n); return b; };
const u16 = (n) => { const b = Buffer.alloc(2); b.writeUInt16BE(n); return b; };
const sized = (b) => Buffer.concat([u32(b.length), b]);

function bound(q, label, ...parts) {
  const digest = createHash('sha256');
  for (const p of parts) digest.update(p);
  const name = Buffer.from(q.algorithm);
  return Buffer.concat([Buffer.from(label), Buffer.from([name.length]), name, digest.digest()]);
}

function envelopeKey(q, shared, kem, publicKey) {
  return Buffer.from(hkdfSync('sha256', shared, Buffer.alloc(0), bound(q, 'keywright kem envelope v1', kem, publicKey), 32));
}

// The bare KEM-DEM form, after docs/formats/qpher.md.
function demKey(q, shared, kem, publicKey) {
  return Buffer.from(hkdfSync('sha256', shared, Buffer.alloc(0), bound(q, 'keywright kem-dem v1', kem, publicKey), 32));
}

function envelopeAAD(first, q) {
  const entries = Object.entries(q.context ?? {}).sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return Buffer.concat([first, sized(Buffer.from(decode(q.aad))), u32(entries.length),
    ...entries.flatMap(([k, v]) => [sized(Buffer.from(k)), sized(Buffer.from(v))])]);
}

const answers = {
  keygen(q) {
    const k = algorithms[q.algorithm].keygen(decode(q.seed));
    return { public: encode(k.publicKey), expanded: encode(k.secretKey) };
  },
  sign(q) {
    const alg = algorithms[q.algorithm];
    const { secretKey } = alg.keygen(decode(q.seed));
    const opts = q.deterministic ? { extraEntropy: false } : {};
    if (q.mu) return { signature: encode(alg.internal.sign(decode(q.message), secretKey, { ...opts, externalMu: true })) };
    return { signature: encode(signer(q).sign(decode(q.message), secretKey, { ...opts, context: decode(q.context) })) };
  },
  verify(q) {
    if (q.mu) {
      return { ok: algorithms[q.algorithm].internal.verify(decode(q.signature), decode(q.message), decode(q.public), { externalMu: true }) };
    }
    return { ok: signer(q).verify(decode(q.signature), decode(q.message), decode(q.public), { context: decode(q.context) }) };
  },
  encapsulate(q) {
    const r = algorithms[q.algorithm].encapsulate(decode(q.public), q.coins ? decode(q.coins) : undefined);
    return { ciphertext: encode(r.cipherText), shared: encode(r.sharedSecret) };
  },
  decapsulate(q) {
    const alg = algorithms[q.algorithm];
    return { shared: encode(alg.decapsulate(decode(q.ciphertext), alg.keygen(decode(q.seed)).secretKey)) };
  },
  seal(q) {
    const alg = algorithms[q.algorithm];
    const publicKey = decode(q.public);
    const { cipherText: kem, sharedSecret } = alg.encapsulate(publicKey, q.coins ? decode(q.coins) : undefined);
    const plaintext = decode(q.message), nonce = decode(q.nonce);
    const first = Buffer.concat([Buffer.from('KWCE'), Buffer.from([1]), Buffer.from(q.keyID.replaceAll('-', ''), 'hex'), u32(q.version),
      u16(q.id), u16(kem.length), kem, Buffer.from([nonce.length])]);
    const gcm = createCipheriv('aes-256-gcm', envelopeKey(q, sharedSecret, kem, publicKey), nonce);
    gcm.setAAD(envelopeAAD(first, q));
    const body = Buffer.concat([gcm.update(plaintext), gcm.final(), gcm.getAuthTag()]);
    return { envelope: encode(Buffer.concat([first, u32(body.length), nonce, body])) };
  },
  open(q) {
    const alg = algorithms[q.algorithm];
    const e = Buffer.from(decode(q.envelope));
    const k = e.readUInt16BE(27), kem = e.subarray(29, 29 + k), n = e[29 + k], b = e.readUInt32BE(30 + k);
    const nonce = e.subarray(34 + k, 34 + k + n), body = e.subarray(34 + k + n);
    if (body.length !== b) throw new Error('sizes');
    const { secretKey, publicKey } = alg.keygen(decode(q.seed));
    const gcm = createDecipheriv('aes-256-gcm', envelopeKey(q, alg.decapsulate(new Uint8Array(kem), secretKey), kem, publicKey), nonce);
    gcm.setAAD(envelopeAAD(e.subarray(0, 30 + k), q));
    gcm.setAuthTag(body.subarray(-16));
    return { message: encode(Buffer.concat([gcm.update(body.subarray(0, -16)), gcm.final()])) };
  },
  // dem seals with the coins and the nonce of the question, or with those that plaintext and salt (in aad) give.
  dem(q) {
    const publicKey = decode(q.public), plaintext = decode(q.message);
    let coins = decode(q.coins), nonce = decode(q.nonce);
    if (q.aad) {
      const salt = createHash('sha256').update(decode(q.aad)).digest(), n = q.algorithm === 'X-Wing' ? 64 : 32;
      const okm = new Uint8Array(hkdfSync('sha256', plaintext, salt, bound(q, 'keywright kem-dem deterministic v1', publicKey), n + 12));
      coins = okm.slice(0, n);
      nonce = okm.slice(n);
    }
    const { cipherText: kem, sharedSecret } = algorithms[q.algorithm].encapsulate(publicKey, coins);
    const gcm = createCipheriv('aes-256-gcm', demKey(q, sharedSecret, kem, publicKey), nonce);
    return { ciphertext: encode(Buffer.concat([kem, nonce, gcm.update(plaintext), gcm.final(), gcm.getAuthTag()])) };
  },
  openDEM(q) {
    const alg = algorithms[q.algorithm], e = decode(q.ciphertext);
    const { secretKey, publicKey } = alg.keygen(decode(q.seed));
    const k = q.algorithm === 'X-Wing' ? 1120 : { 'ML-KEM-512': 768, 'ML-KEM-768': 1088, 'ML-KEM-1024': 1568 }[q.algorithm];
    const kem = e.slice(0, k);
    const gcm = createDecipheriv('aes-256-gcm', demKey(q, alg.decapsulate(kem, secretKey), kem, publicKey), e.slice(k, k + 12));
    gcm.setAuthTag(e.slice(-16));
    return { message: encode(Buffer.concat([gcm.update(e.slice(k + 12, -16)), gcm.final()])) };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const q = JSON.parse(line);
    answer = answers[q.op](q);
  } catch (e) {
    answer = { error: String(e) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
