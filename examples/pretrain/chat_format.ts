// The special tokens and the chat format of the embedded model: one place for the tokenizer files and the corpus.
//   <|bos|><|user|>question<|end|><|assistant|>answer<|end|>
// Every message is self-contained, so the rendering of a conversation is a prefix of every longer one, and the generation
// prompt is a prefix of every answer: loss masks are well defined. `<|end|>` ends a message and a document, and is eos.

/** By id, from 0. */
export const SPECIALS = ["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"] as const;

export const CHAT_TEMPLATE = [
  "{{ bos_token }}",
  "{% for message in messages %}",
  "{% if message['role'] not in ['system', 'user', 'assistant'] %}",
  "{{ raise_exception('roles are system, user and assistant; found ' + message['role']) }}",
  "{% endif %}",
  "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}",
  "{% endfor %}",
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
].join("");
