"""What the two networks of a GAN minimise, and its gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tasks.gan.diff_augment import diff_augment
from tasks.gan.losses import LOSSES, is_collapsed, r1_penalty, wasserstein_penalty
from tasks.gan.networks import GanNetworks


@dataclasses.dataclass(frozen=True)
class GanGradients:
    """Gradients of both losses.

    Attributes:
        networks: the two.
        loss: a key of LOSSES.
        r1_weight, r1_every_steps, gradient_penalty, consistency: see Gan.
    """

    networks: GanNetworks
    loss: str
    r1_weight: float
    r1_every_steps: int
    gradient_penalty: float
    consistency: float

    def generator(self, params: Any, discriminator: Any, keys: tuple, count: int):
        """Returns the generator's loss and its gradient.

        Args:
            params: of the generator.
            discriminator: parameters of the judge.
            keys: of the images (see GanNetworks.generate) and of the judge.
            count: images to generate.
        """

        def loss(params):
            images, labels = self.networks.generate(params, keys[0], count)
            judge = self.networks.judge(discriminator, keys[1], plain=bool(self.consistency))
            return LOSSES[self.loss].generator(judge(images, labels))

        return jax.value_and_grad(loss)(params)

    def discriminator(
        self, params: Any, generator: Any, keys: jax.Array, real: jax.Array, labels, step: jax.Array
    ):
        """Returns the gradient of the discriminator's loss, and scalars.

        Args:
            params: of the discriminator.
            generator: parameters of the generator.
            keys: six: of the generated images; of the judge of the real and of the generated ones;
                of the two again where consistency augments them; of a penalty.
            real: images [b, h, w, c] in -1..1.
            labels: their classes, None without.
            step: number of updates made.
        """
        plain = bool(self.consistency)
        generated, generated_labels = self.networks.generate(generator, keys[0], len(real))

        def loss(params):
            judge_real = self.networks.judge(params, keys[1], plain=plain)
            judge_generated = self.networks.judge(params, keys[2], plain=plain)
            real_logits = judge_real(real, labels)
            generated_logits = judge_generated(generated, generated_labels)
            total = LOSSES[self.loss].discriminator(real_logits, generated_logits)
            metrics = {
                "discriminator_loss": total,
                "logit_real": real_logits.mean(),
                "logit_generated": generated_logits.mean(),
                "is_collapsed": is_collapsed(LOSSES[self.loss], real_logits, generated_logits),
            }
            if self.consistency:
                changes = [
                    self.networks.judge(params, own, plain=False)(images, classes) - logits
                    for own, images, classes, logits in (
                        (keys[3], real, labels, real_logits),
                        (keys[4], generated, generated_labels, generated_logits),
                    )
                ]
                metrics["consistency_loss"] = sum((change**2).mean() for change in changes)
                total += self.consistency * metrics["consistency_loss"]
            if self.loss == "wasserstein" and self.gradient_penalty:
                metrics["gradient_penalty"] = wasserstein_penalty(
                    keys[5], lambda x: judge_generated(x, labels), real, generated
                )
                total += self.gradient_penalty * metrics["gradient_penalty"]
            return total, metrics

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        if self.r1_weight:
            grads, metrics["r1_loss"] = self._add_r1(grads, params, keys, real, labels, step)
        return grads, metrics

    def _add_r1(self, grads: Any, params: Any, keys, real, labels, step: jax.Array):
        """Adds the gradient of the R1 penalty where it is due; returns the penalty, too."""
        weight = self.r1_weight * self.r1_every_steps
        augment = () if self.consistency else self.networks.augment

        def penalty(params):
            judge = self.networks.judge(params, keys[1], plain=True)
            images = diff_augment(keys[5], real, augment)
            return r1_penalty(lambda x: judge(x, labels), images)

        def add(grads):
            value, more = jax.value_and_grad(penalty)(params)
            return jax.tree.map(lambda a, b: a + weight * b, grads, more), weight * value

        # On the other steps 0: the mean over a window is what the penalty adds to the loss.
        return jax.lax.cond(
            step % self.r1_every_steps == 0, add, lambda grads: (grads, jnp.zeros(())), grads
        )
