"""What the two networks of a GAN minimise, and its gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tasks.gan.diff_augment import diff_augment
from tasks.gan.losses import LOSSES, GanLoss, is_collapsed, r1_penalty, wasserstein_penalty
from tasks.gan.networks import GanNetworks
from tasks.gan.options import GanOptions


@dataclasses.dataclass(frozen=True)
class GanGradients:
    """Gradients of both losses of `options`."""

    networks: GanNetworks
    options: GanOptions

    @property
    def _loss(self) -> GanLoss:
        return LOSSES[self.options.loss]

    @property
    def _augment(self) -> tuple[str, ...]:
        """What the losses see is augmented with: with consistency, they see plain images."""
        return () if self.options.consistency else self.options.augment

    def generator(self, params: Any, discriminator: Any, keys: tuple, count: int):
        """Returns the generator's loss and its gradient.

        Args:
            params: of the generator.
            discriminator: parameters of the discriminator.
            keys: of the images (see GanNetworks.generate) and of judging them.
            count: images to generate.
        """

        def loss(params):
            images, labels = self.networks.generate(params, keys[0], count)
            judge = self.networks.judge(discriminator, keys[1], self._augment)
            return self._loss.generator(judge(images, labels))

        return jax.value_and_grad(loss)(params)

    def discriminator(
        self, params: Any, generator: Any, keys: jax.Array, real: jax.Array, labels, step: jax.Array
    ):
        """Returns the gradient of the discriminator's loss, and scalars.

        Args:
            params: of the discriminator.
            generator: parameters of the generator.
            keys: six: of the generated images; of judging the real and the generated ones; of the
                two again where consistency augments them; of a penalty.
            real: images [b, h, w, c] in -1..1.
            labels: their classes; None: without classes.
            step: number of updates made.
        """
        options = self.options
        generated, generated_labels = self.networks.generate(generator, keys[0], len(real))

        def loss(params):
            judge_real = self.networks.judge(params, keys[1], self._augment)
            judge_generated = self.networks.judge(params, keys[2], self._augment)
            real_logits = judge_real(real, labels)
            generated_logits = judge_generated(generated, generated_labels)
            total = self._loss.discriminator(real_logits, generated_logits)
            metrics = {
                "discriminator_loss": total,
                "logit_real": real_logits.mean(),
                "logit_generated": generated_logits.mean(),
                "is_collapsed": is_collapsed(self._loss, real_logits, generated_logits),
            }
            if options.consistency:
                changes = [
                    self.networks.judge(params, own, options.augment)(images, classes) - logits
                    for own, images, classes, logits in (
                        (keys[3], real, labels, real_logits),
                        (keys[4], generated, generated_labels, generated_logits),
                    )
                ]
                metrics["consistency_loss"] = sum((change**2).mean() for change in changes)
                total += options.consistency * metrics["consistency_loss"]
            if options.loss == "wasserstein" and options.gradient_penalty:
                metrics["gradient_penalty"] = wasserstein_penalty(
                    keys[5], lambda x: judge_generated(x, labels), real, generated
                )
                total += options.gradient_penalty * metrics["gradient_penalty"]
            return total, metrics

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        if options.r1_weight:
            grads, metrics["r1_loss"] = self._add_r1(grads, params, keys, real, labels, step)
        return grads, metrics

    def _add_r1(self, grads: Any, params: Any, keys, real, labels, step: jax.Array):
        """Adds the gradient of the R1 penalty where it is due; also returns the penalty."""
        every = self.options.r1_every_steps
        weight = self.options.r1_weight * every

        def penalty(params):
            judge = self.networks.judge(params, keys[1], ())
            images = diff_augment(keys[5], real, self._augment)
            return r1_penalty(lambda x: judge(x, labels), images)

        def add(grads):
            value, more = jax.value_and_grad(penalty)(params)
            return jax.tree.map(lambda a, b: a + weight * b, grads, more), weight * value

        # 0 on the other steps: the mean over a window is what the penalty adds to the loss.
        return jax.lax.cond(
            step % every == 0,
            add,
            lambda grads: (grads, jnp.zeros(())),
            grads,
        )
